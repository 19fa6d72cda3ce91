import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Backend, createRedisBackend } from "@kvatlas/shared/backend";
import { configSchema } from "@kvatlas/shared/config/schema";
import type { IndexedBlock } from "@kvatlas/shared/index/block-index";
import { silentLogger } from "@kvatlas/shared/logger";
import type { EndpointId } from "@kvatlas/shared/types";
import { eventually } from "../support/eventually.ts";
import { EngineFleet, type Replica } from "./engine-fleet.ts";
import type { Fault, Topology } from "./fault-schedule.ts";
import { type IndexContent, readContent } from "./index-truth.ts";
import { IngesterFleet, type IngesterTiming, shortTiming } from "./ingester-fleet.ts";
import { RedisNode } from "./redis-node.ts";
import { ReplicatedRedis } from "./replicated-redis.ts";

export interface FaultRigOptions {
  readonly replicas: number;
  /** That run when all is well; one more can join. */
  readonly ingesters: number;
  /** @defaultValue single */
  readonly topology?: Topology;
  /** @defaultValue short times */
  readonly timing?: IngesterTiming;
}

/** How far one endpoint's part of the index is behind its engine. */
export interface EndpointLag {
  readonly owner: string | null;
  /** Batches that the engine has published and the index does not have for certain; 0 or less when it has all. */
  readonly batches: number;
}

const blocksPerRead = 2_000;
const startTimeoutMs = 60_000;

/** Real processes (Redis, ingesters, simulated replicas), real links between them, and every way to break them. */
export class FaultRig {
  /** Logs of every process, until `close`. */
  readonly folder: string;
  readonly engines: EngineFleet;
  readonly #options: FaultRigOptions;
  readonly #ingesters: IngesterFleet;
  readonly #redis: RedisNode | ReplicatedRedis;
  readonly #store: Backend;
  /** Replicas whose next batches were to vanish: only a later batch shows that they did. */
  readonly #robbed = new Set<Replica>();

  private constructor(
    folder: string,
    options: FaultRigOptions,
    parts: { engines: EngineFleet; ingesters: IngesterFleet; redis: RedisNode | ReplicatedRedis },
  ) {
    this.folder = folder;
    this.#options = options;
    this.engines = parts.engines;
    this.#ingesters = parts.ingesters;
    this.#redis = parts.redis;
    const { address } = parts.redis;
    const { redis } = configSchema.parse({ redis: "port" in address ? { url: `redis://127.0.0.1:${address.port}` } : address });
    this.#store = createRedisBackend(redis, "background", silentLogger);
  }

  static async start(options: FaultRigOptions): Promise<FaultRig> {
    const folder = await mkdtemp(join(tmpdir(), "kvatlas-faults-"));
    const { topology = "single" } = options;
    const redis = topology === "single" ? await RedisNode.start(folder) : await ReplicatedRedis.start(topology);
    const engines = await EngineFleet.start(folder, options.replicas);
    const ingesters = await IngesterFleet.create(
      folder,
      options.ingesters + 1,
      redis.address,
      engines.replicas,
      options.timing ?? shortTiming,
    );
    const rig = new FaultRig(folder, options, { engines, ingesters, redis });
    await rig.heal();
    await eventually(() => rig.#allOwned(), startTimeoutMs);
    return rig;
  }

  async begin(fault: Fault): Promise<void> {
    const { kind, amount } = fault;
    const [ingester, replica, replicaIndex] = [
      this.#ingesterOf(fault),
      this.#replicaOf(fault),
      fault.target % this.engines.replicas.length,
    ];
    // One ingester's link, or all of them: those who are not the owner notice nothing.
    const slot = amount === 0 ? null : this.#ingesterOf(fault);
    switch (kind) {
      case "ingester-kill":
        return this.#ingesters.kill(ingester);
      case "ingester-pause":
        return this.#ingesters.pause(ingester);
      case "ingester-leave":
        return this.#ingesters.leave(ingester);
      case "ingester-join":
        return this.#ingesters.start(this.#options.ingesters);
      case "events-cut":
        return this.#ingesters.setLink("events", slot, replicaIndex, { kind: "cut" });
      case "events-stall":
        return this.#ingesters.setLink("events", slot, replicaIndex, { kind: "stalled" });
      case "events-slow":
        return this.#ingesters.setLink("events", null, replicaIndex, { kind: "slow", delayMs: amount });
      case "replay-cut":
        return this.#ingesters.setLink("replay", null, replicaIndex, { kind: "cut" });
      case "replay-stall":
        return this.#ingesters.setLink("replay", null, replicaIndex, { kind: "stalled" });
      case "replay-hang":
        return this.engines.faults(replica, { replayHang: true });
      case "replay-short":
        return this.engines.faults(replica, { replayLimit: amount });
      case "redis-link-cut":
        return this.#ingesters.setRedisLink(ingester, { kind: "cut" });
      case "redis-link-stall":
        return this.#ingesters.setRedisLink(ingester, { kind: "stalled" });
      case "redis-link-slow":
        return this.#ingesters.setRedisLink(ingester, { kind: "slow", delayMs: amount });
      case "redis-pause":
        return this.#redis.pause(fault.target);
      case "redis-empty":
        await this.#oneRedis.stop();
        return this.#oneRedis.discard();
      case "redis-restart":
        this.#oneRedis.resume();
        await this.#oneRedis.save();
        return this.#oneRedis.stop();
      case "redis-rollback":
        this.#oneRedis.resume();
        return this.#oneRedis.save();
      case "redis-failover":
        return this.#replicatedRedis.cutOff(fault.target);
      case "redis-scripts":
        this.#redis.resume();
        return this.#redis.forgetScripts();
      case "redis-clients":
        this.#redis.resume();
        return this.#redis.disconnectClients();
      case "engine-restart":
        return this.engines.faults(replica, { restart: true });
      case "engine-reopen":
        return this.engines.faults(replica, { restart: { reopenSockets: true } });
      case "engine-kill":
        return this.engines.killProcess(replica.process);
      case "engine-reset":
        return this.engines.faults(replica, { resetCache: true });
      case "engine-sleep":
        return this.engines.post(replica, "/sleep");
      case "engine-slow-join":
        return this.engines.faults(replica, { slowJoin: amount, restart: true });
      case "batches-dropped":
        return this.engines.faults(replica, { drop: amount });
      case "batches-lost":
        this.#robbed.add(replica);
        return this.engines.faults(replica, { lose: amount });
    }
  }

  /** What ends by itself or in `heal` has no end of its own. */
  async end(fault: Fault): Promise<void> {
    const [ingester, replica, replicaIndex] = [
      this.#ingesterOf(fault),
      this.#replicaOf(fault),
      fault.target % this.engines.replicas.length,
    ];
    switch (fault.kind) {
      case "ingester-kill":
      case "ingester-leave":
        return this.#ingesters.start(ingester);
      case "ingester-pause":
        return this.#ingesters.resume(ingester);
      case "ingester-join":
        return this.#ingesters.leave(this.#options.ingesters);
      case "events-cut":
      case "events-stall":
      case "events-slow":
        return this.#ingesters.setLink("events", null, replicaIndex, { kind: "open" });
      case "replay-cut":
      case "replay-stall":
        return this.#ingesters.setLink("replay", null, replicaIndex, { kind: "open" });
      case "replay-hang":
        return this.engines.faults(replica, { replayHang: false });
      case "replay-short":
        return this.engines.faults(replica, { replayLimit: null });
      case "redis-link-cut":
      case "redis-link-stall":
      case "redis-link-slow":
        return this.#ingesters.setRedisLink(ingester, { kind: "open" });
      case "redis-pause":
        return this.#redis.resume();
      case "redis-rollback":
        // It may have been restarted empty meanwhile: then there is nothing to go back to.
        await this.#oneRedis.stop();
        return this.#oneRedis.start();
      case "redis-empty":
      case "redis-restart":
        return this.#oneRedis.start();
      case "redis-failover":
        return this.#replicatedRedis.killPrimary(fault.target);
      case "engine-kill":
        return this.engines.startProcess(replica.process);
      case "engine-sleep":
        return this.engines.post(replica, "/wake_up");
      default:
        return;
    }
  }

  /** Every process runs, every link is open, nothing is on its way to go wrong. */
  async heal(): Promise<void> {
    this.#ingesters.heal();
    this.#redis.resume();
    const { ingesters } = this.#options;
    const others = Array.from({ length: this.#ingesters.size - ingesters }, (_, i) => this.#ingesters.leave(ingesters + i));
    const engines = Promise.all(this.engines.replicas.map((replica) => this.engines.startProcess(replica.process)));
    await Promise.all([this.#redis.start(), engines, ...others]);
    for (let slot = 0; slot < ingesters; slot++) this.#ingesters.start(slot);
    await Promise.all(
      this.engines.replicas.map(async (replica) => {
        await this.engines.faults(replica, { drop: 0, lose: 0, slowJoin: 0, replayHang: false, replayLimit: null });
        await this.engines.post(replica, "/wake_up");
      }),
    );
  }

  /** Replicas that lost batches for good since the last call. */
  takeRobbed(): readonly Replica[] {
    const robbed = [...this.#robbed];
    this.#robbed.clear();
    return robbed;
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
    return readContent(blocks.values(), new Set(this.engines.replicas.map(({ address }) => address as EndpointId)));
  }

  /** What the engines have published at this moment against what the index has a moment later. */
  async lag(): Promise<ReadonlyMap<EndpointId, EndpointLag>> {
    const published = await Promise.all(this.engines.replicas.map((replica) => this.engines.dump(replica)));
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

  async #allOwned(): Promise<void> {
    const owned = (await this.#store.registry.endpoints()).filter(({ state }) => state.owner !== null);
    if (owned.length < this.engines.replicas.length) throw new Error(`${owned.length} replicas are looked after`);
  }

  async close(options: { readonly keepLogs?: boolean } = {}): Promise<void> {
    await this.#store.close();
    await Promise.all([this.#ingesters.close(), this.engines.close()]);
    await this.#redis.stop();
    if (options.keepLogs !== true) await rm(this.folder, { recursive: true, force: true });
  }

  get #oneRedis(): RedisNode {
    if (this.#redis instanceof RedisNode) return this.#redis;
    throw new Error("this needs a single Redis");
  }

  get #replicatedRedis(): ReplicatedRedis {
    if (this.#redis instanceof ReplicatedRedis) return this.#redis;
    throw new Error("this needs a Redis with replicas");
  }

  #ingesterOf({ target }: Fault): number {
    return target % this.#options.ingesters;
  }

  #replicaOf({ target }: Fault): Replica {
    const { replicas } = this.engines;
    const replica = replicas[target % replicas.length];
    if (replica === undefined) throw new Error("there are no replicas");
    return replica;
  }
}
