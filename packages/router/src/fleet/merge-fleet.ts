import type { PoolConfig } from "@kvatlas/shared/config/schema";
import type { EndpointRecord } from "@kvatlas/shared/registry/endpoint-registry";
import type { EndpointId } from "@kvatlas/shared/types";
import type { FleetEndpoint, FleetPool } from "./fleet.ts";

export interface MergeInput {
  readonly pools: readonly PoolConfig[];
  readonly records: readonly EndpointRecord[];
  readonly nowMs: number;
  readonly endpointTtlMs: number;
  /** Silence is counted from here at the earliest: ms since the epoch at which the registry came back from an outage, in which nobody could beat. */
  readonly silenceFromMs: number;
}

/** Endpoint id of a data-parallel rank behind an address. */
export function endpointIdOf(address: string, rank: number): EndpointId {
  return (rank === 0 ? address : `${address}/${rank}`) as EndpointId;
}

/**
 * The fleet: configured endpoints, completed by what the registry knows of them, and the endpoints that the registry alone knows.
 * A record belongs to the pool it names, else to the pool of its model; records of neither are left out.
 */
export function mergeFleet(input: MergeInput): readonly FleetPool[] {
  const byPool = new Map<string, Map<EndpointId, { configured: boolean; address: string; rank: number; record: EndpointRecord | null }>>();
  for (const pool of input.pools) {
    const members = new Map<EndpointId, { configured: boolean; address: string; rank: number; record: EndpointRecord | null }>();
    for (const endpoint of pool.endpoints.static) {
      for (let rank = 0; rank < endpoint.dataParallelSize; rank++) {
        members.set(endpointIdOf(endpoint.address, rank), { configured: true, address: endpoint.address, rank, record: null });
      }
    }
    byPool.set(pool.name, members);
  }
  for (const record of input.records) {
    const name = poolNameOf(input.pools, record);
    const members = name === null ? undefined : byPool.get(name);
    if (members === undefined) continue;
    const known = members.get(record.id);
    if (known !== undefined) known.record = record;
    else members.set(record.id, { configured: false, address: record.meta.address, rank: record.meta.rank, record });
  }
  return input.pools.map((config) => {
    const members = [...(byPool.get(config.name) ?? [])].sort(([a], [b]) => (a < b ? -1 : 1));
    const ranksByAddress = new Map<string, number>();
    for (const [, member] of members) ranksByAddress.set(member.address, (ranksByAddress.get(member.address) ?? 0) + 1);
    const endpoints = members.map(([id, { configured, address, rank, record }]): FleetEndpoint => {
      const status = statusOf(input, configured, record);
      const meta = record?.meta;
      return {
        id,
        address,
        rank,
        ranked: rank > 0 || (ranksByAddress.get(address) ?? 0) > 1,
        pool: config.name,
        configured,
        ready: status === "ready" || (configured && (status === "unobserved" || status === "silent")),
        status,
        scope: meta?.scope ?? null,
        extrasForm: meta?.extrasForm ?? null,
        lookaheadTokens: meta?.lookaheadTokens ?? 0,
        groups: meta?.groups ?? [],
        loras: meta?.loras ?? {},
        heartbeat: record === null ? null : record.heartbeat,
        incarnation: record?.state.incarnation ?? 0,
        processStartMs: typeof meta?.processStartSeconds === "number" ? meta.processStartSeconds * 1_000 : null,
      };
    });
    return { config, endpoints };
  });
}

function poolNameOf(pools: readonly PoolConfig[], record: EndpointRecord): string | null {
  const named = pools.find((pool) => pool.name === record.meta.pool);
  if (named !== undefined) return named.name;
  return pools.find((pool) => pool.model === record.meta.model)?.name ?? null;
}

function statusOf(input: MergeInput, configured: boolean, record: EndpointRecord | null): FleetEndpoint["status"] {
  if (record === null) return "unobserved";
  // A configured endpoint without an event stream may have a record that nobody keeps alive; its health is then unknown, not bad.
  const silentMs = input.nowMs - Math.max(record.heartbeat, input.silenceFromMs);
  if (silentMs > input.endpointTtlMs) return configured && record.heartbeat === 0 ? "unobserved" : "silent";
  return record.meta.ready ? "ready" : "not-ready";
}
