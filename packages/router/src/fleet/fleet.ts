import type { PoolConfig } from "@kvatlas/shared/config/schema";
import type { ExtrasForm, ScopeSpec } from "@kvatlas/shared/hashing/key-scheme";
import type { EngineRole } from "@kvatlas/shared/registry/engine-role";
import type { PoolRecord } from "@kvatlas/shared/registry/pool-record";
import type { CacheGroup, EndpointId, ScopeId } from "@kvatlas/shared/types";
import { hasAdapter, servesModel } from "../routing/filters.ts";

/** One endpoint as routing sees it. Immutable: a change makes a new one. */
export interface FleetEndpoint {
  readonly id: EndpointId;
  /** `host:port` of the HTTP server. */
  readonly address: string;
  readonly rank: number;
  /** The address has further ranks, so the rank must be named in requests. */
  readonly ranked: boolean;
  readonly pool: string;
  /** Part in disaggregated serving; null: serves requests as a whole. */
  readonly role: EngineRole | null;
  /** Its pod, where it was discovered. */
  readonly pod?: FleetPod;
  /** Listed in the configuration, or discovered: counts as ready while nobody says otherwise. */
  readonly configured: boolean;
  /** Fit for requests, as far as is known. */
  readonly ready: boolean;
  /** Why `ready` is what it is, for people. */
  readonly status: "ready" | "not-ready" | "silent" | "unobserved";
  readonly scope: ScopeId | null;
  readonly extrasForm: ExtrasForm | null;
  readonly lookaheadTokens: number;
  /** Names the images of requests for an adapter after it. */
  readonly mediaByAdapter: boolean;
  readonly groups: readonly CacheGroup[];
  readonly loras: Readonly<Record<string, string>>;
  /** ms since the epoch of the last sign of life; null when there was none. */
  readonly heartbeat: number | null;
  /** 0 until its events have been applied. */
  readonly incarnation: number;
  /** When the engine's process began, ms since the epoch; null when it does not tell. */
  readonly processStartMs: number | null;
}

export interface FleetPod {
  /** `namespace/name` */
  readonly name: string;
  readonly labels: Readonly<Record<string, string>>;
}

export interface FleetPool {
  /** With what the cluster says of the pool. */
  readonly config: PoolConfig;
  /** What discovery knows of it; absent where nobody discovers, or nothing has been written yet. */
  readonly discovered?: PoolRecord;
  /** Sorted by id, so that every router walks them in the same order. */
  readonly endpoints: readonly FleetEndpoint[];
}

export interface FleetSnapshot {
  readonly pools: readonly FleetPool[];
  readonly scopes: ReadonlyMap<ScopeId, ScopeSpec>;
  /** Live routers, this one included once it is registered. */
  readonly routers: readonly string[];
  /** The registry answered the last time it was asked. */
  readonly registryReachable: boolean;
}

/** What serves a model: the pool, those of its endpoints that can, and the adapter when the name is one. */
export interface ModelRoute {
  readonly pool: FleetPool;
  readonly endpoints: readonly FleetEndpoint[];
  readonly lora: string | null;
}

/**
 * Which pool serves a model name. A null name goes to the only pool there is, as an engine does with its only model.
 * An adapter is served by the endpoints that have loaded it.
 */
export function routeOfModel(fleet: FleetSnapshot, model: string | null): ModelRoute | null {
  if (model === null) {
    const only = fleet.pools.length === 1 ? fleet.pools[0] : undefined;
    return only === undefined ? null : { pool: only, endpoints: only.endpoints, lora: null };
  }
  for (const pool of fleet.pools) {
    if (servesModel(pool, model)) return { pool, endpoints: pool.endpoints, lora: null };
  }
  for (const pool of fleet.pools) {
    const endpoints = pool.endpoints.filter((endpoint) => hasAdapter(endpoint, model));
    if (endpoints.length > 0) return { pool, endpoints, lora: model };
  }
  return null;
}

/** Every model name the fleet serves, with its base model for adapters; sorted by pool, then by name. */
export function servedModels(
  fleet: FleetSnapshot,
): readonly { readonly id: string; readonly root: string; readonly parent: string | null }[] {
  const models: { id: string; root: string; parent: string | null }[] = [];
  const seen = new Set<string>();
  for (const pool of fleet.pools) {
    if (!seen.has(pool.config.model)) {
      seen.add(pool.config.model);
      models.push({ id: pool.config.model, root: pool.config.model, parent: null });
    }
    const adapters = new Map(pool.endpoints.flatMap((endpoint) => Object.entries(endpoint.loras)));
    for (const [name, path] of [...adapters].sort(([a], [b]) => (a < b ? -1 : 1))) {
      if (seen.has(name)) continue;
      seen.add(name);
      models.push({ id: name, root: path, parent: pool.config.model });
    }
  }
  return models;
}
