import type { PoolConfig } from "@kvatlas/shared/config/schema";
import { type ReplicaTarget, targetsOfReplica } from "./replica-target.ts";

/**
 * The configured replicas, one target per data-parallel rank. An address named twice counts once, the first time.
 *
 * @param options - `seek`: replicas without an events address are asked for it, as nobody can dial us
 */
export function staticTargets(pools: readonly PoolConfig[], options: { readonly seek?: boolean } = {}): readonly ReplicaTarget[] {
  const targets = new Map<string, ReplicaTarget>();
  for (const pool of pools) {
    for (const replica of pool.endpoints.static) {
      const { address, events = null, replay = null, dataParallelSize } = replica;
      for (const target of targetsOfReplica({ address, events, replay, dataParallelSize }, pool, options.seek === true)) {
        if (!targets.has(target.endpoint)) targets.set(target.endpoint, target);
      }
    }
  }
  return [...targets.values()];
}
