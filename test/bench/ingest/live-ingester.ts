import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { configSchema } from "@kvatlas/shared/config/schema";
import { completeSeq, createRedisKeys, parsePosition } from "@kvatlas/shared/index/redis-keys";
import { silentLogger } from "@kvatlas/shared/logger";
import { createRedisConnection, type RedisCommand, type RedisConnection } from "@kvatlas/shared/redis";
import { createRedisEndpointRegistry } from "@kvatlas/shared/registry/redis-endpoint-registry";
import { freePortRange } from "../../support/free-ports.ts";
import { ManagedProcess } from "../../support/managed-process.ts";
import { TestPublisher } from "../../support/test-publisher.ts";
import { blocksPerBatch, type EncodedBatch, EngineBatches, keyScheme, model } from "./engine-batches.ts";
import type { CpuMeter } from "./measured.ts";
import type { BenchServers } from "./servers.ts";

const keys = createRedisKeys("kva");
const engineCount = 8;
/** Batches of one engine that are sent and not yet in the index: enough that the ingester never waits, too few for its queue to overflow. */
const maxOutstanding = 200;
/** How often the index is looked at: while it is only to be seen when everything is in, and while each batch is timed. */
const drainPollMs = 5;
const latencyPollMs = 1;
const sendAgainMs = 500;
const startTimeoutMs = 60_000;
/** Nothing new in the index for this long: it will not come. */
const stalledAfterMs = 20_000;

interface Engine {
  readonly endpoint: string;
  readonly publisher: TestPublisher;
  readonly batches: EngineBatches;
  /** Batches that have not been seen in the index, by number. */
  readonly outstanding: Map<number, { readonly dueAt: number; readonly shards: readonly number[] }>;
}

/** How far each endpoint has come in each shard. Shards for which a batch has nothing do not move with it. */
type Positions = readonly ReadonlyMap<string, number>[];

export interface Latencies {
  /** From the moment a batch was due to be sent to the moment at which the index was seen to have it. */
  readonly milliseconds: readonly number[];
  /** Between two looks at the index: what is seen is late by up to this. */
  readonly lookMilliseconds: readonly number[];
}

/** One `kvatlas ingester` process between 8 publishers of this process and a Redis, as it runs in production: sockets, queues, leases and all. */
export class LiveIngester implements CpuMeter {
  readonly #folder: string;
  readonly #connection: RedisConnection;
  readonly #process: ManagedProcess;
  readonly #admin: string;
  readonly #engines: readonly Engine[];
  /** One for each shard. */
  #looks: readonly RedisCommand[] = [];

  private constructor(folder: string, connection: RedisConnection, process: ManagedProcess, admin: string, engines: readonly Engine[]) {
    this.#folder = folder;
    this.#connection = connection;
    this.#process = process;
    this.#admin = admin;
    this.#engines = engines;
  }

  /** Resolves when every publisher's first batch is in the index. */
  static async start({ address: redis, shards }: BenchServers): Promise<LiveIngester> {
    const folder = await mkdtemp(join(tmpdir(), "kvatlas-bench-"));
    const engines: Engine[] = [];
    for (let i = 0; i < engineCount; i++) {
      engines.push({
        endpoint: `127.0.0.1:${i + 1}`,
        publisher: await TestPublisher.start(),
        batches: new EngineBatches(i, shards),
        outstanding: new Map(),
      });
    }
    const section = "port" in redis ? { url: `redis://127.0.0.1:${redis.port}` } : redis;
    const admin = `127.0.0.1:${await freePortRange(1)}`;
    const endpoints = engines.map(({ endpoint, publisher }) => ({
      address: endpoint,
      events: publisher.events,
      replay: publisher.replay,
    }));
    const config = {
      redis: section,
      pools: [
        {
          name: "p",
          model,
          prefixCache: { hashAlgo: keyScheme.algorithm, hashSeed: keyScheme.seed },
          endpoints: { static: endpoints },
        },
      ],
      // Nobody answers HTTP at these addresses.
      ingester: { admin, scrapeIntervalMs: 60_000 },
      log: { level: "warn" },
    };
    const configFile = join(folder, "ingester.yaml");
    await writeFile(configFile, JSON.stringify(config));
    const connection = createRedisConnection(configSchema.parse({ redis: section }).redis, "background", silentLogger);
    const process = new ManagedProcess(["ingester", "--config", configFile], {}, join(folder, "ingester.log"));
    const ingester = new LiveIngester(folder, connection, process, admin, engines);
    try {
      await ingester.#settle();
      return ingester;
    } catch (error) {
      const log = await readFile(join(folder, "ingester.log"), "utf8");
      await ingester.close();
      throw new Error(`The ingester has not begun its work. Its log:\n${log.slice(-4_000)}`, { cause: error });
    }
  }

  /** Makes batches of each engine and answers with what sends them as fast as they are taken, and with how many operations that was when all are in the index. */
  prepare(batchesEach: number, removes: boolean): () => Promise<number> {
    const made = this.#engines.map(({ batches }) => Array.from({ length: batchesEach }, () => batches.next(removes)));
    const operations = made.flat().reduce((sum, batch) => sum + batch.operations, 0);
    return async () => {
      const sending = this.#engines.map(async (engine, i) => {
        for (const batch of made[i] ?? []) {
          while (engine.outstanding.size >= maxOutstanding) await sleep(drainPollMs);
          await publish(engine, batch, performance.now());
        }
      });
      await this.#watch(Promise.all(sending), drainPollMs);
      return operations;
    };
  }

  /** Open loop: batches of each engine, sent when they are due whatever has become of those before. */
  async latencies(batchesEach: number, operationsPerSecond: number): Promise<Latencies> {
    const everyMs = (1_000 * 2 * blocksPerBatch * this.#engines.length) / operationsPerSecond;
    const made = this.#engines.map(({ batches }) => Array.from({ length: batchesEach }, () => batches.next(true)));
    const began = performance.now();
    const sending = this.#engines.map(async (engine, i) => {
      for (const [number, batch] of (made[i] ?? []).entries()) {
        const due = began + (number + i / this.#engines.length) * everyMs;
        const wait = due - performance.now();
        if (wait > 0) await sleep(wait);
        await publish(engine, batch, due);
      }
    });
    return this.#watch(Promise.all(sending), latencyPollMs);
  }

  /** Its index grows by stores alone. */
  async grow(blocks: number): Promise<void> {
    let missing = Math.ceil(blocks / blocksPerBatch / this.#engines.length);
    // In pieces, so that this process does not grow with it.
    for (; missing > 0; missing -= maxOutstanding) await this.prepare(Math.min(maxOutstanding, missing), false)();
  }

  async cpuSeconds(): Promise<number> {
    return this.#metric("process_cpu_seconds_total");
  }

  async residentBytes(): Promise<number> {
    return this.#metric("process_resident_memory_bytes");
  }

  async close(): Promise<void> {
    await this.#process.kill();
    await Promise.all(this.#engines.map(({ publisher }) => publisher.close()));
    await this.#connection.close();
    await rm(this.#folder, { recursive: true, force: true });
  }

  async #metric(name: string): Promise<number> {
    const text = await (await fetch(`http://${this.#admin}/metrics`)).text();
    const value = Number(new RegExp(`^${name}(?:{[^}]*})? (\\S+)$`, "m").exec(text)?.[1] ?? Number.NaN);
    if (!Number.isFinite(value)) throw new Error(`the ingester shows no ${name}`);
    return value;
  }

  /** Looks at the index until it has all that `sending` sends. @throws when `sending` does, or when nothing more comes in */
  async #watch(sending: Promise<unknown>, pollMs: number): Promise<Latencies> {
    const [milliseconds, lookMilliseconds]: [number[], number[]] = [[], []];
    let isSent = false;
    let failure: unknown = null;
    sending.then(
      () => {
        isSent = true;
      },
      (error: unknown) => {
        failure = error;
      },
    );
    let lookedAt = performance.now();
    let movedAt = lookedAt;
    while (!isSent || this.#engines.some(({ outstanding }) => outstanding.size > 0)) {
      if (failure !== null) throw failure;
      const positions = await this.#positions();
      const now = performance.now();
      lookMilliseconds.push(now - lookedAt);
      lookedAt = now;
      for (const { endpoint, outstanding } of this.#engines) {
        for (const [seq, { dueAt, shards }] of outstanding) {
          if (shards.some((shard) => (positions[shard]?.get(endpoint) ?? -1) < seq)) break;
          outstanding.delete(seq);
          milliseconds.push(now - dueAt);
          movedAt = now;
        }
      }
      if (now - movedAt > stalledAfterMs) throw new Error(`nothing more came into the index: ${this.#progress(positions)}`);
      await sleep(pollMs);
    }
    return { milliseconds, lookMilliseconds };
  }

  /** What a publisher sends before its subscriber is there is lost until a replay, so each sends until all that it has sent is in the index. */
  async #settle(): Promise<void> {
    const registry = createRedisEndpointRegistry({ connection: this.#connection, keys });
    const deadline = performance.now() + startTimeoutMs;
    for (let sentAt = Number.NEGATIVE_INFINITY; ; ) {
      const [scope] = (await registry.scopes()).values();
      if (scope !== undefined) {
        const space = keys.space(scope.tag);
        this.#looks = Array.from({ length: scope.shards }, (_, shard) => ["hgetall", space.seq(shard)]);
      }
      const positions = await this.#positions();
      const missing = this.#engines.filter(({ endpoint, publisher, outstanding }) => {
        const last = outstanding.get(publisher.nextSeq - 1);
        return last === undefined || last.shards.some((shard) => (positions[shard]?.get(endpoint) ?? -1) < publisher.nextSeq - 1);
      });
      if (missing.length === 0) break;
      if (!this.#process.isAlive) throw new Error("the ingester has ended");
      if (performance.now() > deadline) throw new Error(`the first batches are not in the index: ${this.#progress(positions)}`);
      if (performance.now() - sentAt > sendAgainMs) {
        sentAt = performance.now();
        for (const engine of missing) await publish(engine, engine.batches.next(false), sentAt);
      }
      await sleep(drainPollMs);
    }
    for (const { outstanding } of this.#engines) outstanding.clear();
  }

  async #positions(): Promise<Positions> {
    return (await this.#connection.send(this.#looks)).map((reply) => {
      if (reply instanceof Error) throw reply;
      const fields = Object.entries(reply as Readonly<Record<string, string>>);
      return new Map(fields.map(([endpoint, text]) => [endpoint, seqOf(text)]));
    });
  }

  #progress(positions: Positions): string {
    return this.#engines
      .map(
        ({ endpoint, publisher }) =>
          `${endpoint}: ${positions.map((shard) => shard.get(endpoint) ?? "nothing").join("/")} of ${publisher.nextSeq - 1}`,
      )
      .join(", ");
  }
}

function seqOf(text: string): number {
  const position = parsePosition(text);
  return position === null ? -1 : completeSeq(position.mark);
}

async function publish(engine: Engine, { payload, shards }: EncodedBatch, dueAt: number): Promise<void> {
  engine.outstanding.set(engine.publisher.nextSeq, { dueAt, shards });
  await engine.publisher.publishRaw(payload);
}
