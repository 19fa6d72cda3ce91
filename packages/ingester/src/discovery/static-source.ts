import type { PoolConfig } from "@kvatlas/shared/config/schema";
import { endpointIdOf, offsetPort, type ReplicaTarget } from "./replica-target.ts";

/**
 * The configured replicas, one target per data-parallel rank. An address named twice counts once, the first time.
 *
 * @param options - `seek`: replicas without an events address are asked for it, as nobody can dial us
 */
export function staticTargets(pools: readonly PoolConfig[], options: { readonly seek?: boolean } = {}): readonly ReplicaTarget[] {
  const targets = new Map<string, ReplicaTarget>();
  for (const pool of pools) {
    for (const replica of pool.endpoints.static) {
      for (let rank = 0; rank < replica.dataParallelSize; rank++) {
        const endpoint = endpointIdOf(replica.address, rank);
        if (targets.has(endpoint)) continue;
        targets.set(endpoint, {
          endpoint,
          address: replica.address,
          rank,
          pool,
          model: pool.model,
          events: replica.events === undefined ? null : offsetPort(replica.events, rank),
          replay: replica.replay === undefined ? null : offsetPort(replica.replay, rank),
          ...(replica.events === undefined && options.seek === true ? { seeksEvents: true } : {}),
        });
      }
    }
  }
  return [...targets.values()];
}
