import { modeOfPool } from "@kvatlas/router/routing/mode-of-pool";
import type { KvatlasConfig } from "@kvatlas/shared/config/schema";
import type { EndpointRecord } from "@kvatlas/shared/registry/endpoint-registry";
import { formatDuration } from "../table.ts";
import { ok, problem, type Verdict } from "./verdict.ts";

export interface FleetState {
  readonly endpoints: readonly EndpointRecord[];
  readonly ingesters: readonly string[];
  readonly routers: readonly string[];
  readonly nowMs: number;
}

/** Pure: what the registry says about ingesters, routers and endpoints, against the configuration. */
export function checkFleet(config: KvatlasConfig, fleet: FleetState): readonly Verdict[] {
  return [
    fleet.ingesters.length === 0
      ? problem(
          "instances",
          "ingesters",
          "no ingester is alive, so the index learns nothing. Start one with the same redis.url and keyPrefix: kvatlas ingester.",
        )
      : ok("instances", "ingesters", `${fleet.ingesters.length} alive`),
    fleet.routers.length === 0
      ? problem("instances", "routers", "no router is alive. Start one with the same redis.url and keyPrefix: kvatlas router.")
      : ok("instances", "routers", `${fleet.routers.length} alive`),
    ...missing(config, fleet.endpoints),
    ...[...fleet.endpoints].sort((a, b) => (a.id < b.id ? -1 : 1)).flatMap((endpoint) => checkEndpoint(config, endpoint, fleet.nowMs)),
  ];
}

/** Configured replicas that no ingester has ever described. */
function missing(config: KvatlasConfig, endpoints: readonly EndpointRecord[]): readonly Verdict[] {
  const known = new Set(endpoints.map(({ meta }) => meta.address));
  return config.pools.flatMap((pool) =>
    pool.endpoints.static
      .filter(({ address, events }) => events !== undefined && !known.has(address))
      .map(({ address }) =>
        problem(
          "endpoints",
          address,
          `configured in pool ${pool.name}, but no ingester knows it. Do the ingesters run with this configuration?`,
        ),
      ),
  );
}

function checkEndpoint(config: KvatlasConfig, { id, heartbeat, meta, state }: EndpointRecord, nowMs: number): readonly Verdict[] {
  const silentMs = nowMs - heartbeat;
  const verdicts: Verdict[] = [];
  if (silentMs > config.router.endpointTtlMs) {
    verdicts.push(
      problem(
        "endpoints",
        id,
        `no ingester has seen it for ${formatDuration(silentMs)}. Is the replica gone, or its ingester (${state.owner ?? "none"})?`,
      ),
    );
  }
  if (!meta.ready)
    verdicts.push(problem("endpoints", id, `its health check at http://${meta.address}/health fails, so no request is sent there.`));
  const pool = config.pools.find((candidate) => candidate.name === meta.pool);
  // Only precise pools need events; endpoints of pools that are not configured here are taken for such.
  const mode = pool === undefined ? "precise" : modeOfPool(pool);
  if (meta.scope === null && mode === "precise") {
    verdicts.push(
      problem(
        "endpoints",
        id,
        'no self-describing event has arrived yet, so its cache is unknown. Send it a request longer than one block; then check --kv-events-config (enable_kv_cache_events true, publisher "zmq", the endpoint the ingester uses) and that prefix caching is on.',
      ),
    );
  }
  for (const [name, text] of Object.entries(meta.findings)) verdicts.push(problem("findings", id, `${name}: ${text}`));
  return verdicts.length > 0
    ? verdicts
    : [
        ok(
          "endpoints",
          id,
          `${meta.model}, ${meta.scope ?? (mode === "estimated" ? "by what was sent there" : "routed by load")}, owned by ${state.owner ?? "nobody"}`,
        ),
      ];
}
