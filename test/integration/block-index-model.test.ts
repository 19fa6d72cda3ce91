import { isKvatlasError } from "@kvatlas/shared/errors";
import type { BlockIndex, IndexOp, IndexWriter, SequencedOps } from "@kvatlas/shared/index/block-index";
import { chainOf } from "@kvatlas/shared/index/block-index.contract";
import { MemoryBlockIndex } from "@kvatlas/shared/index/memory-block-index";
import { createRedisBlockIndex } from "@kvatlas/shared/index/redis-block-index";
import { createRedisKeys } from "@kvatlas/shared/index/redis-keys";
import { silentLogger } from "@kvatlas/shared/logger";
import { createRedisConnection, type RedisConnection } from "@kvatlas/shared/redis";
import type { BlockKey, CacheGroup, EndpointId, ScopeId } from "@kvatlas/shared/types";
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { createFaultyConnection, type Fault } from "../support/faulty-connection.ts";
import { IndexOracle } from "../support/index-oracle.ts";
import { uniqueKeyPrefix } from "../support/redis.ts";
import { type RedisCluster, startRedisCluster } from "../support/redis-cluster.ts";
import { type RedisServer, startRedisServer } from "../support/redis-server.ts";

/*
 * Random lives of three endpoints, each step against the oracle: events with copies and unknown removals in several media and cache groups,
 * batches passed again, owners that vanish in the middle of a call, incarnations, departures, sweeps; and, for Redis, lost connections and replies.
 */

const scope = "model.b16" as ScopeId;
const endpoints = ["10.0.0.1:8000", "10.0.0.1:8000/1", "10.0.0.1:80001"] as EndpointId[];
const chains = [chainOf(1, 30), [...chainOf(1, 12), ...chainOf(2, 18)]];
const plain: readonly CacheGroup[] = [{ id: 0, kind: "full", blockSizeTokens: 16, windowTokens: null }];
const hybrid: readonly CacheGroup[] = [...plain, { id: 1, kind: "sliding", blockSizeTokens: 16, windowTokens: 49 }];

const ops = fc.array(
  fc
    .record({
      op: fc.constantFrom<IndexOp["op"]>("store", "store", "remove", "confirm"),
      medium: fc.constantFrom<IndexOp["medium"]>("gpu", "gpu", "cpu", "storage", "other"),
      group: fc.constantFrom(0, 0, 1),
      chain: fc.constantFrom(...chains),
      from: fc.integer({ min: 0, max: 29 }),
      length: fc.integer({ min: 0, max: 30 }),
    })
    .map(({ op, medium, group, chain, from, length }): IndexOp => ({ op, medium, group, keys: chain.slice(from, from + length) })),
  { maxLength: 4 },
);

const endpoint = fc.integer({ min: 0, max: endpoints.length - 1 });
const step = fc.oneof(
  {
    weight: 10,
    arbitrary: fc.record({ do: fc.constant("events" as const), endpoint, batches: fc.array(ops, { minLength: 1, maxLength: 4 }) }),
  },
  { weight: 2, arbitrary: fc.record({ do: fc.constant("repeat" as const), endpoint, back: fc.integer({ min: 1, max: 5 }) }) },
  { weight: 2, arbitrary: fc.record({ do: fc.constant("settle" as const), endpoint }) },
  { weight: 3, arbitrary: fc.record({ do: fc.constant("next owner" as const), endpoint }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant("incarnation" as const), endpoint }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant("forget" as const), endpoint }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant("sweep" as const), limit: fc.integer({ min: 1, max: 50 }) }) },
);

type Step = typeof step extends fc.Arbitrary<infer T> ? T : never;

/** One endpoint's life, as its ingester would lead it: the log is what the engine's replay buffer holds of this incarnation. */
class Owner {
  readonly #index: BlockIndex;
  readonly #oracle: IndexOracle;
  readonly #endpoint: EndpointId;
  readonly #log: SequencedOps[] = [];
  #writer: IndexWriter | null = null;
  #incarnation = 0;
  #from = 0;
  #fence = 0;
  #next = 0;

  constructor(index: BlockIndex, oracle: IndexOracle, id: EndpointId) {
    this.#index = index;
    this.#oracle = oracle;
    this.#endpoint = id;
  }

  async events(batches: readonly IndexOp[][]): Promise<void> {
    const sequenced = batches.map((each): SequencedOps => {
      this.#next += 1;
      return { seq: this.#next, ops: each };
    });
    this.#log.push(...sequenced);
    for (const { ops: each } of sequenced) for (const op of each) this.#oracle.apply(this.#endpoint, op);
    const writer = await this.#open();
    try {
      await writer.apply(sequenced);
    } catch (error) {
      if (!isKvatlasError(error, "KVATLAS_REDIS_UNAVAILABLE")) throw error;
      // Outcome unknown: calling again with the same batches is safe.
      await withRetries(() => writer.apply(sequenced));
    }
    expect(writer.applied).toBe(this.#next);
  }

  async repeat(back: number): Promise<void> {
    const writer = await this.#open();
    const again = this.#log.slice(-back);
    const result = await withRetries(() => writer.apply(again));
    expect(result.applied).toBe(0);
  }

  async settle(): Promise<void> {
    const writer = await this.#open();
    await withRetries(() => writer.settle());
  }

  /** The owner vanishes; the next one reads the watermark and replays what follows it, and a little before it. */
  async nextOwner(): Promise<void> {
    this.#fence += 1;
    const former = this.#writer;
    this.#writer = null;
    const writer = await this.#open();
    expect(writer.applied).toBeLessThanOrEqual(this.#next);
    const replayed = this.#log.filter(({ seq }) => seq > writer.applied - 2);
    for (const batch of replayed) await withRetries(() => writer.apply([batch]));
    if (former !== null)
      await expect(withRetries(() => former.apply([{ seq: this.#next + 1, ops: [] }, ...storeAll(this.#next + 2)]))).rejects.toMatchObject({
        code: "KVATLAS_INDEX_FENCED",
      });
  }

  begin(): void {
    this.#incarnation += 1;
    this.#from = this.#next + 1;
    this.#log.length = 0;
    this.#writer = null;
    this.#oracle.reset(this.#endpoint);
  }

  async incarnation(): Promise<void> {
    this.begin();
    await this.#open();
  }

  async forget(): Promise<void> {
    await withRetries(() => this.#index.forget(scope, this.#endpoint));
    this.begin();
  }

  async #open(): Promise<IndexWriter> {
    if (this.#incarnation === 0) this.begin();
    const target = { scope, endpoint: this.#endpoint, incarnation: this.#incarnation, from: this.#from, fence: this.#fence };
    this.#writer ??= await withRetries(() => this.#index.openWriter(target));
    return this.#writer;
  }
}

const storeAll = (seq: number): SequencedOps[] => [{ seq, ops: [{ op: "store", medium: "gpu", group: 0, keys: chains[0] ?? [] }] }];

/** Faults end at some time: a call of many round trips gets through no connection that breaks at every fifth. */
const weather = { isCalm: false };
const attemptsInFaults = 20;

async function withRetries<T>(call: () => Promise<T>): Promise<T> {
  try {
    for (let attempt = 1; ; attempt += 1) {
      weather.isCalm = attempt > attemptsInFaults;
      try {
        return await call();
      } catch (error) {
        if (weather.isCalm || !isKvatlasError(error, "KVATLAS_REDIS_UNAVAILABLE")) throw error;
      }
    }
  } finally {
    weather.isCalm = false;
  }
}

async function live(index: BlockIndex, reader: BlockIndex, steps: readonly Step[]): Promise<void> {
  const oracle = new IndexOracle();
  const owners = endpoints.map((id) => new Owner(index, oracle, id));
  let cursor = "0";
  for (const each of steps) {
    const owner = "endpoint" in each ? owners[each.endpoint] : undefined;
    if (each.do === "events") await owner?.events(each.batches);
    else if (each.do === "repeat") await owner?.repeat(each.back);
    else if (each.do === "settle") await owner?.settle();
    else if (each.do === "next owner") await owner?.nextOwner();
    else if (each.do === "incarnation") await owner?.incarnation();
    else if (each.do === "forget") await owner?.forget();
    else if (each.do === "sweep") cursor = (await withRetries(() => index.sweep(scope, cursor, each.limit))).next ?? "0";
    await compare(reader, oracle);
  }
}

async function compare(reader: BlockIndex, oracle: IndexOracle): Promise<void> {
  const groups = new Map(endpoints.slice(0, 2).map((id) => [id, hybrid]));
  const queries = chains.flatMap((keys) => [
    { scope, keys },
    { scope, keys, groups },
  ]);
  const results = await reader.lookup(queries, { method: "exact" });
  for (const [i, query] of queries.entries()) {
    const expected = endpoints.flatMap((id) => {
      const match = oracle.match(id, query.keys, "groups" in query ? (groups.get(id) ?? plain) : plain);
      return match === null ? [] : [[id, match] as const];
    });
    expect(results[i]).toEqual(new Map(expected));
  }
  const key = chains[0]?.[3] as BlockKey;
  const holders = (await reader.holders(scope, key)).filter(({ live: isLive }) => isLive);
  const expected = endpoints.flatMap((id) =>
    [0, 1].flatMap((group) => {
      const copies = oracle.copies(id, group, key);
      return copies === null ? [] : [{ endpoint: id, group, copies }];
    }),
  );
  const order = (holder: { endpoint: string; group: number }) => `${holder.endpoint} ${holder.group}`;
  expect(
    holders.map(({ endpoint: id, group, copies }) => ({ endpoint: id, group, copies })).sort((a, b) => (order(a) < order(b) ? -1 : 1)),
  ).toEqual(expected.sort((a, b) => (order(a) < order(b) ? -1 : 1)));
}

const timeBox = { interruptAfterTimeLimit: 15_000, markInterruptAsFailure: false };

describe("any life of the endpoints leaves the index equal to the oracle", () => {
  let server: RedisServer;
  let cluster: RedisCluster;
  let single: RedisConnection;
  let inCluster: RedisConnection;
  beforeAll(async () => {
    // Of its own: it is made to forget its scripts.
    server = await startRedisServer();
    single = createRedisConnection({ url: server.url, commandTimeoutMs: 1_000 }, "background", silentLogger);
    cluster = await startRedisCluster();
    inCluster = createRedisConnection({ url: null, cluster: [...cluster.nodes], commandTimeoutMs: 1_000 }, "background", silentLogger);
  });
  afterAll(async () => {
    await Promise.all([single?.close(), inCluster?.close()]);
    await Promise.all([server?.stop(), cluster?.stop()]);
  });

  it("in memory", async () => {
    const property = fc.asyncProperty(fc.array(step, { maxLength: 25 }), async (steps) => {
      const index = new MemoryBlockIndex();
      await live(index, index, steps);
    });
    await fc.assert(property, { ...timeBox, numRuns: 200 });
  });

  it.each([
    { shards: 1, maxOpsPerCall: 500, where: "Redis" },
    { shards: 1, maxOpsPerCall: 5, where: "Redis" },
    { shards: 4, maxOpsPerCall: 7, where: "Redis" },
    { shards: 16, maxOpsPerCall: 7, where: "a cluster" },
  ])("in $where with $shards shards and $maxOpsPerCall operations a call, with faults", async ({ shards, maxOpsPerCall, where }) => {
    const connection = where === "Redis" ? single : inCluster;
    const faults = fc.infiniteStream(
      fc.oneof(
        { weight: 8, arbitrary: fc.constant<Fault>("none") },
        { weight: 3, arbitrary: fc.constantFrom<Fault>("refused", "cut", "reply lost", "scripts forgotten") },
      ),
    );
    const property = fc.asyncProperty(fc.array(step, { maxLength: 25 }), faults, async (steps, stream) => {
      const keys = createRedisKeys(uniqueKeyPrefix());
      const faulty = createFaultyConnection(connection, () => (weather.isCalm ? "none" : (stream.next().value ?? "none")));
      const index = createRedisBlockIndex({ connection: faulty, keys }, { defaultShards: shards, maxOpsPerCall });
      const reader = createRedisBlockIndex({ connection, keys }, { defaultShards: shards });
      await live(index, reader, steps);
    });
    await fc.assert(property, { ...timeBox, numRuns: 60 });
  });
});
