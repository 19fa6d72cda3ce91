import type { EngineFleet, Replica } from "./engine-fleet.ts";
import type { Fault } from "./fault-schedule.ts";
import type { IngesterFleet } from "./ingester-fleet.ts";
import { RedisNode } from "./redis-node.ts";
import { ReplicatedRedis } from "./replicated-redis.ts";

/** What can be broken. */
export interface Breakable {
  readonly engines: EngineFleet;
  readonly ingesters: IngesterFleet;
  readonly redis: RedisNode | ReplicatedRedis;
  /** Ingesters that run when all is well; the one behind them can join. */
  readonly regular: number;
}

/** Lets faults begin and end. */
export class FaultInjector {
  readonly #engines: EngineFleet;
  readonly #ingesters: IngesterFleet;
  readonly #redis: RedisNode | ReplicatedRedis;
  readonly #regular: number;
  /** Replicas whose next batches were to vanish: only a later batch shows that they did. */
  readonly #robbed = new Set<Replica>();

  constructor({ engines, ingesters, redis, regular }: Breakable) {
    this.#engines = engines;
    this.#ingesters = ingesters;
    this.#redis = redis;
    this.#regular = regular;
  }

  async begin(fault: Fault): Promise<void> {
    const { kind, amount } = fault;
    const [ingester, replica, replicaIndex] = [
      this.#ingesterOf(fault),
      this.#replicaOf(fault),
      fault.target % this.#engines.replicas.length,
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
        return this.#ingesters.start(this.#regular);
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
        return this.#engines.faults(replica, { replayHang: true });
      case "replay-short":
        return this.#engines.faults(replica, { replayLimit: amount });
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
        return this.#engines.faults(replica, { restart: true });
      case "engine-reopen":
        return this.#engines.faults(replica, { restart: { reopenSockets: true } });
      case "engine-kill":
        return this.#engines.killProcess(replica.process);
      case "engine-reset":
        return this.#engines.faults(replica, { resetCache: true });
      case "engine-sleep":
        return this.#engines.post(replica, "/sleep");
      case "engine-slow-join":
        return this.#engines.faults(replica, { slowJoin: amount, restart: true });
      case "batches-dropped":
        return this.#engines.faults(replica, { drop: amount });
      case "batches-lost":
        this.#robbed.add(replica);
        return this.#engines.faults(replica, { lose: amount });
    }
  }

  /** What ends by itself or in `heal` has no end of its own. */
  async end(fault: Fault): Promise<void> {
    const [ingester, replica, replicaIndex] = [
      this.#ingesterOf(fault),
      this.#replicaOf(fault),
      fault.target % this.#engines.replicas.length,
    ];
    switch (fault.kind) {
      case "ingester-kill":
      case "ingester-leave":
        return this.#ingesters.start(ingester);
      case "ingester-pause":
        return this.#ingesters.resume(ingester);
      case "ingester-join":
        return this.#ingesters.leave(this.#regular);
      case "events-cut":
      case "events-stall":
      case "events-slow":
        return this.#ingesters.setLink("events", null, replicaIndex, { kind: "open" });
      case "replay-cut":
      case "replay-stall":
        return this.#ingesters.setLink("replay", null, replicaIndex, { kind: "open" });
      case "replay-hang":
        return this.#engines.faults(replica, { replayHang: false });
      case "replay-short":
        return this.#engines.faults(replica, { replayLimit: null });
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
        return this.#engines.startProcess(replica.process);
      case "engine-sleep":
        return this.#engines.post(replica, "/wake_up");
      default:
        return;
    }
  }

  /** Replicas that lost batches for good since the last call. */
  takeRobbed(): readonly Replica[] {
    const robbed = [...this.#robbed];
    this.#robbed.clear();
    return robbed;
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
    return target % this.#regular;
  }

  #replicaOf({ target }: Fault): Replica {
    const { replicas } = this.#engines;
    const replica = replicas[target % replicas.length];
    if (replica === undefined) throw new Error("there are no replicas");
    return replica;
  }
}
