import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Backend, createRedisBackend } from "@kvatlas/shared/backend";
import { configSchema } from "@kvatlas/shared/config/schema";
import type { IndexedBlock } from "@kvatlas/shared/index/block-index";
import { silentLogger } from "@kvatlas/shared/logger";
import type { EndpointId } from "@kvatlas/shared/types";
import { eventually } from "../support/eventually.ts";
import { PortPool } from "../support/free-ports.ts";
import { type Arrangement, plainArrangement } from "./arrangement.ts";
import { EngineFleet, type Replica } from "./engine-fleet.ts";
import { FaultInjector } from "./fault-injector.ts";
import type { Fault, Topology } from "./fault-schedule.ts";
import { type IndexContent, readContent } from "./index-truth.ts";
import { IngesterFleet, type IngesterTiming, shortTiming } from "./ingester-fleet.ts";
import { LostGaps } from "./lost-gaps.ts";
import { RedisNode } from "./redis-node.ts";
import { ReplicatedRedis } from "./replicated-redis.ts";
import { nudge } from "./request-load.ts";

export interface FaultRigOptions {
  readonly replicas: number;
  /** That run when all is well; one more can join. */
  readonly ingesters: number;
  /** @defaultValue single */
  readonly topology?: Topology;
  /** @defaultValue the plain one */
  readonly arrangement?: Arrangement;
  /** @defaultValue short times */
  readonly timing?: IngesterTiming;
}

/** How far one endpoint's part of the index is behind its engine. */
export interface EndpointLag {
  readonly owner: string | null;
  /** Batches that the engine has published and the index does not have for certain; 0 or less when it has all. */
  readonly batches: number;
}

interface Parts {
  readonly engines: EngineFleet;
  readonly ingesters: IngesterFleet;
  readonly redis: RedisNode | ReplicatedRedis;
  readonly store: Backend;
}

const blocksPerRead = 2_000;
const ownedTimeoutMs = 60_000;
const nudgeEveryMs = 500;

/** Real processes (Redis, ingesters, simulated replicas), real links between them, and every way to break them. */
export class FaultRig {
  /** Logs of every process, until `close`. */
  readonly folder: string;
  readonly arrangement: Arrangement;
  readonly engines: EngineFleet;
  /** Batches that ingesters have given up for good. */
  readonly lostGaps: LostGaps;
  readonly #regular: number;
  readonly #ingesters: IngesterFleet;
  readonly #redis: RedisNode | ReplicatedRedis;
  readonly #store: Backend;
  readonly #injector: FaultInjector;
  readonly #closers: readonly Closer[];

  private constructor(
    folder: string,
    { ingesters: regular, arrangement = plainArrangement }: FaultRigOptions,
    parts: Parts,
    closers: readonly Closer[],
  ) {
    this.folder = folder;
    this.arrangement = arrangement;
    this.engines = parts.engines;
    this.lostGaps = new LostGaps(parts.ingesters.logFiles);
    this.#regular = regular;
    this.#ingesters = parts.ingesters;
    this.#redis = parts.redis;
    this.#store = parts.store;
    this.#injector = new FaultInjector({ ...parts, regular });
    this.#closers = closers;
  }

  /** @throws whatever kept a part from starting; then nothing of the others is left, but the logs */
  static async start(options: FaultRigOptions): Promise<FaultRig> {
    const folder = await mkdtemp(join(tmpdir(), "kvatlas-faults-"));
    const closers: Closer[] = [];
    try {
      const { topology = "single", arrangement = plainArrangement, timing = shortTiming, replicas } = options;
      const redis = topology === "single" ? await RedisNode.start(folder) : await ReplicatedRedis.start(topology);
      closers.push(() => redis.stop());
      const ports = new PortPool();
      const engines = await EngineFleet.create(folder, { ports, replicas, arrangement });
      closers.push(() => engines.close());
      const slots = options.ingesters + 1;
      const fleet = { ports, slots, redis: redis.address, replicas: engines.replicas, arrangement, timing };
      const ingesters = await IngesterFleet.create(folder, fleet);
      closers.push(() => ingesters.close());
      const store = createRedisBackend(redisConfig(redis.address), "background", silentLogger);
      closers.push(() => store.close());
      await engines.start(ingesters.dial);
      const rig = new FaultRig(folder, options, { engines, ingesters, redis, store }, closers);
      await rig.heal();
      await rig.announce();
      await eventually(async () => {
        const missing = await rig.#unowned();
        if (missing.length > 0) throw new Error(`nobody looks after ${missing.join(", ")}`);
      }, ownedTimeoutMs);
      return rig;
    } catch (error) {
      await closeAll(closers);
      throw new Error(`the processes have not started, see ${folder}`, { cause: error });
    }
  }

  begin(fault: Fault): Promise<void> {
    return this.#injector.begin(fault);
  }

  /** What ends by itself or in `heal` has no end of its own. */
  end(fault: Fault): Promise<void> {
    return this.#injector.end(fault);
  }

  /** Every process runs, every link is open, nothing is on its way to go wrong. */
  async heal(): Promise<void> {
    this.#ingesters.heal();
    this.#redis.resume();
    const others = Array.from({ length: this.#ingesters.size - this.#regular }, (_, i) => this.#ingesters.leave(this.#regular + i));
    const engines = Promise.all(this.engines.replicas.map((replica) => this.engines.startProcess(replica.process)));
    await Promise.all([this.#redis.start(), engines, ...others]);
    for (let slot = 0; slot < this.#regular; slot++) this.#ingesters.start(slot);
    await Promise.all(
      this.engines.replicas.map(async (replica) => {
        await this.engines.faults(replica, { drop: 0, lose: 0, slowJoin: 0, replayHang: false, replayLimit: null });
        await this.engines.post(replica, "/wake_up");
      }),
    );
  }

  /**
   * Where engines dial, only their frames show that they are there: each that no ingester knows is given something to say until one does.
   * Engines that are dialled need none of this.
   */
  async announce(): Promise<void> {
    if (this.arrangement.publishers === "connect") return;
    let nudgedAt = Number.NEGATIVE_INFINITY;
    await eventually(async () => {
      const missing = await this.#unowned();
      if (missing.length === 0) return;
      if (performance.now() - nudgedAt > nudgeEveryMs) {
        nudgedAt = performance.now();
        await Promise.all(missing.map((endpoint) => nudge(this.engines, endpoint)));
      }
      throw new Error(`no ingester has heard of ${missing.join(", ")}`);
    }, ownedTimeoutMs);
  }

  /** Replicas that lost batches for good since the last call. */
  takeRobbed(): readonly Replica[] {
    return this.#injector.takeRobbed();
  }

  /** What the index says about every block of every scope. */
  async content(): Promise<IndexContent> {
    const { index, registry } = this.#store;
    const blocks = new Map<string, IndexedBlock>();
    for (const scope of (await registry.scopes()).keys()) {
      for (let cursor: string | null = "0"; cursor !== null; ) {
        const slice: { readonly next: string | null; readonly blocks: readonly IndexedBlock[] } = await index.walk(
          scope,
          cursor,
          blocksPerRead,
        );
        for (const block of slice.blocks) blocks.set(`${scope} ${block.key}`, block);
        cursor = slice.next;
      }
    }
    return readContent(blocks.values(), new Set(this.engines.endpoints));
  }

  /** What the engines have published at this moment against what the index has a moment later. */
  async lag(): Promise<ReadonlyMap<EndpointId, EndpointLag>> {
    const published = (await Promise.all(this.engines.replicas.map((replica) => this.engines.dumps(replica)))).flat();
    const { index, registry } = this.#store;
    const applied = new Map<EndpointId, number>();
    for (const scope of (await registry.scopes()).keys()) {
      for (const [endpoint, position] of await index.positions(scope)) applied.set(endpoint, position.applied ?? -1);
    }
    const owners = new Map((await registry.endpoints()).map(({ id, state }) => [id, state.owner]));
    return new Map(
      published.map(({ endpoint, nextSequence }) => [
        endpoint,
        { owner: owners.get(endpoint) ?? null, batches: nextSequence - 1 - (applied.get(endpoint) ?? -1) },
      ]),
    );
  }

  /** What the registry says, for reports. */
  async records(): Promise<unknown> {
    return this.#store.registry.endpoints();
  }

  async close(options: { readonly keepLogs?: boolean } = {}): Promise<void> {
    await closeAll(this.#closers);
    if (options.keepLogs !== true) await rm(this.folder, { recursive: true, force: true });
  }

  async #unowned(): Promise<readonly EndpointId[]> {
    const owned = new Set((await this.#store.registry.endpoints()).filter(({ state }) => state.owner !== null).map(({ id }) => id));
    return this.engines.endpoints.filter((endpoint) => !owned.has(endpoint));
  }
}

type Closer = () => Promise<unknown>;

/** The last one first; all of them, whatever some of them say. */
async function closeAll(closers: readonly Closer[]): Promise<void> {
  for (const close of [...closers].reverse()) await close().catch(() => {});
}

function redisConfig(address: RedisNode["address"] | ReplicatedRedis["address"]) {
  return configSchema.parse({ redis: "port" in address ? { url: `redis://127.0.0.1:${address.port}` } : address }).redis;
}
