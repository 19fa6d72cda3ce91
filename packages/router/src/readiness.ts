import type { FleetSnapshot } from "./fleet/fleet.ts";

/** Why the router should get no traffic, one sentence each. An unreachable index is no reason: requests are then routed by load. */
export function readinessOf(fleet: FleetSnapshot, isDraining: boolean): readonly string[] {
  const reasons: string[] = [];
  if (isDraining) reasons.push("the router is shutting down.");
  if (fleet.pools.length === 0) reasons.push("no pool is configured: add one under pools.");
  const ready = fleet.pools.some((pool) => pool.endpoints.some((endpoint) => endpoint.ready));
  if (fleet.pools.length > 0 && !ready) {
    const known = fleet.pools.reduce((sum, pool) => sum + pool.endpoints.length, 0);
    reasons.push(known === 0 ? "no replica is known yet." : `none of ${known} replicas is ready.`);
  }
  return reasons;
}
