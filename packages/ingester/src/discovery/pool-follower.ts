import { isDeepStrictEqual } from "node:util";
import type { PoolConfig } from "@kvatlas/shared/config/schema";
import { KnownPools } from "@kvatlas/shared/registry/known-pools";
import { effectivePool, type PoolRecord } from "@kvatlas/shared/registry/pool-record";
import type { EndpointId } from "@kvatlas/shared/types";
import { type ReplicaTarget, targetsOfReplica } from "./replica-target.ts";
import { staticTargets } from "./static-source.ts";

export interface PoolFollowerDeps {
  /** What this instance looks after, or would. */
  readonly targets: () => ReadonlyMap<EndpointId, ReplicaTarget>;
  readonly adopt: (target: ReplicaTarget) => void;
  /** The same replica under other settings: ended, and not forgotten. */
  readonly drop: (endpoint: EndpointId) => Promise<void>;
  /** The replica has gone. */
  readonly depart: (endpoint: EndpointId) => Promise<void>;
  /** Before anything else is told of a change. */
  readonly reconfigure: (pools: readonly PoolConfig[], targets: ReadonlyMap<EndpointId, ReplicaTarget>) => void;
}

interface Followed {
  readonly target: ReplicaTarget;
  readonly uid: string;
}

/** Makes what is looked after equal to what was discovered: pods that came, pods that left, pods that took over an address, settings that changed. */
export class PoolFollower {
  readonly #deps: PoolFollowerDeps;
  readonly #pools: readonly PoolConfig[];
  readonly #seek: boolean;
  readonly #known = new KnownPools();
  #followed: ReadonlyMap<EndpointId, Followed> = new Map();

  constructor(deps: PoolFollowerDeps, pools: readonly PoolConfig[], options: { readonly seek: boolean }) {
    this.#deps = deps;
    this.#pools = pools;
    this.#seek = options.seek;
  }

  /** Calls must not overlap. A failure leaves the rest to the next one. */
  async follow(read: ReadonlyMap<string, PoolRecord>): Promise<void> {
    const records = this.#known.update(read);
    const pools = this.#pools.map((pool) => effectivePool(pool, recordOf(pool, records)));
    const fixed = new Map(staticTargets(pools, { seek: this.#seek }).map((target) => [target.endpoint, target]));
    const wanted = discoveredTargets(pools, records, this.#seek);
    for (const endpoint of fixed.keys()) wanted.delete(endpoint);
    const before = this.#followed;
    this.#deps.reconfigure(pools, new Map([...fixed, ...[...wanted].map(([endpoint, { target }]) => [endpoint, target] as const)]));

    const addresses = new Set([...wanted.values()].map(({ target }) => target.address));
    const discovering = new Set(pools.filter((pool) => recordOf(pool, records) !== null).map(({ name }) => name));
    for (const [endpoint, target] of this.#deps.targets()) {
      // Ranks of a replica that it has told of itself stay with their address.
      const isGone = discovering.has(target.pool.name) && !fixed.has(endpoint) && !addresses.has(target.address);
      if (isGone) await this.#deps.depart(endpoint);
    }
    const followed = new Map<EndpointId, Followed>();
    this.#followed = followed;
    for (const [endpoint, found] of wanted) {
      const earlier = before.get(endpoint);
      if (earlier !== undefined && earlier.uid !== found.uid) await this.#deps.depart(endpoint);
      else if (earlier !== undefined && !isDeepStrictEqual(earlier.target, found.target)) await this.#deps.drop(endpoint);
      this.#deps.adopt(found.target);
      followed.set(endpoint, found);
    }
  }
}

function recordOf(pool: PoolConfig, records: ReadonlyMap<string, PoolRecord>): PoolRecord | null {
  return pool.endpoints.kubernetes === undefined ? null : (records.get(pool.name) ?? null);
}

function discoveredTargets(
  pools: readonly PoolConfig[],
  records: ReadonlyMap<string, PoolRecord>,
  seek: boolean,
): Map<EndpointId, Followed> {
  const found = new Map<EndpointId, Followed>();
  for (const pool of pools) {
    const dataParallelSize = pool.endpoints.kubernetes?.dataParallelSize ?? 1;
    for (const { address, events, replay, uid } of recordOf(pool, records)?.targets ?? []) {
      for (const target of targetsOfReplica({ address, events, replay, dataParallelSize }, pool, seek)) {
        if (!found.has(target.endpoint)) found.set(target.endpoint, { target, uid });
      }
    }
  }
  return found;
}
