import { answersRequests } from "@kvatlas/shared/registry/engine-role";
import type { FleetSnapshot } from "./fleet/fleet.ts";

/** Why the router should get no traffic, one sentence each. An unreachable index is no reason: requests are then routed by load. */
export function readinessOf(fleet: FleetSnapshot, isDraining: boolean, loadingPools: Iterable<string> = []): readonly string[] {
  const reasons: string[] = [];
  if (isDraining) reasons.push("the router is shutting down.");
  // Its first requests would be routed by load. One that cannot be read at all is logged, and no reason: it would never go away.
  for (const pool of loadingPools) reasons.push(`the tokenizer of pool ${pool} is being read.`);
  if (fleet.pools.length === 0) reasons.push("no pool is configured: add one under pools.");
  const ready = fleet.pools.some((pool) => pool.endpoints.some(({ ready, role }) => ready && answersRequests(role)));
  if (fleet.pools.length > 0 && !ready) {
    const known = fleet.pools.reduce((sum, pool) => sum + pool.endpoints.length, 0);
    reasons.push(known === 0 ? "no replica is known yet." : `none of ${known} replicas is ready to answer.`);
    for (const { config, discovered } of fleet.pools)
      reasons.push(...(discovered?.problems ?? []).map((problem) => `pool ${config.name}: ${problem}`));
  }
  return reasons;
}
