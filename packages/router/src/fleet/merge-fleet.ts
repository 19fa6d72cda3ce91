import type { PoolConfig } from "@kvatlas/shared/config/schema";
import type { EndpointRecord } from "@kvatlas/shared/registry/endpoint-registry";
import { type EngineRole, engineRoleOf } from "@kvatlas/shared/registry/engine-role";
import { effectivePool, type PoolRecord, type PoolTarget } from "@kvatlas/shared/registry/pool-record";
import type { EndpointId } from "@kvatlas/shared/types";
import type { FleetEndpoint, FleetPool } from "./fleet.ts";

export interface MergeInput {
  readonly pools: readonly PoolConfig[];
  readonly records: readonly EndpointRecord[];
  /** What discovery knows of pools, by name. @defaultValue nothing */
  readonly discovered?: ReadonlyMap<string, PoolRecord>;
  readonly nowMs: number;
  readonly endpointTtlMs: number;
  /** Silence is counted from here at the earliest: ms since the epoch at which the registry came back from an outage, in which nobody could beat. */
  readonly silenceFromMs: number;
}

/** Endpoint id of a data-parallel rank behind an address. */
export function endpointIdOf(address: string, rank: number): EndpointId {
  return (rank === 0 ? address : `${address}/${rank}`) as EndpointId;
}

/** Before the registry is asked about it. */
interface Member {
  readonly address: string;
  readonly rank: number;
  readonly configured: boolean;
  readonly role: EngineRole | null;
  /** What discovery says of its readiness; null where nobody does. */
  readonly target: PoolTarget | null;
  record: EndpointRecord | null;
}

/**
 * The fleet: configured and discovered endpoints, completed by what the registry knows of them, and the endpoints that the registry alone knows.
 * A record belongs to the pool it names, else to the pool of its model; records of neither are left out. A pool that is discovered has the replicas that
 * discovery names and no others, whatever records are left of them.
 */
export function mergeFleet(input: MergeInput): readonly FleetPool[] {
  const pools = input.pools.map((pool) => {
    const discovered = pool.endpoints.kubernetes === undefined ? null : (input.discovered?.get(pool.name) ?? null);
    return { config: effectivePool(pool, discovered), discovered, members: membersOf(pool, discovered) };
  });
  for (const record of input.records) {
    const name = poolNameOf(input.pools, record);
    const pool = pools.find(({ config }) => config.name === name);
    if (pool === undefined) continue;
    const known = pool.members.get(record.id);
    // A further rank that a replica has told of itself has its part as well.
    const sibling = [...pool.members.values()].find(({ address }) => address === record.meta.address);
    if (known !== undefined) known.record = record;
    else if (pool.config.endpoints.kubernetes === undefined) {
      pool.members.set(record.id, {
        configured: false,
        address: record.meta.address,
        rank: record.meta.rank,
        role: sibling?.role ?? null,
        target: null,
        record,
      });
    } else if (sibling !== undefined) {
      pool.members.set(record.id, { ...sibling, rank: record.meta.rank, record });
    }
  }
  return pools.map(({ config, discovered, members }) => {
    const sorted = [...members].sort(([a], [b]) => (a < b ? -1 : 1));
    const ranksByAddress = new Map<string, number>();
    for (const [, member] of sorted) ranksByAddress.set(member.address, (ranksByAddress.get(member.address) ?? 0) + 1);
    const endpoints = sorted.map(([id, { configured, address, rank, role, target, record }]): FleetEndpoint => {
      const status = target?.ready === false ? "not-ready" : statusOf(input, configured, record);
      const meta = record?.meta;
      return {
        id,
        address,
        rank,
        ranked: rank > 0 || (ranksByAddress.get(address) ?? 0) > 1,
        pool: config.name,
        role,
        configured,
        ready: status === "ready" || (configured && (status === "unobserved" || status === "silent")),
        status,
        scope: meta?.scope ?? null,
        extrasForm: meta?.extrasForm ?? null,
        lookaheadTokens: meta?.lookaheadTokens ?? 0,
        mediaByAdapter: meta?.mediaByAdapter ?? false,
        groups: meta?.groups ?? [],
        loras: meta?.loras ?? {},
        heartbeat: record === null ? null : record.heartbeat,
        incarnation: record?.state.incarnation ?? 0,
        processStartMs: typeof meta?.processStartSeconds === "number" ? meta.processStartSeconds * 1_000 : null,
        ...(target === null ? {} : { pod: { name: target.pod, labels: target.labels } }),
      };
    });
    return { config, endpoints, ...(discovered === null ? {} : { discovered }) };
  });
}

function membersOf(pool: PoolConfig, discovered: PoolRecord | null): Map<EndpointId, Member> {
  const members = new Map<EndpointId, Member>();
  const add = (address: string, ranks: number, role: EngineRole | null, target: PoolTarget | null): void => {
    for (let rank = 0; rank < ranks; rank++) {
      const id = endpointIdOf(address, rank);
      if (!members.has(id)) members.set(id, { configured: true, address, rank, role, target, record: null });
    }
  };
  for (const endpoint of pool.endpoints.static) add(endpoint.address, endpoint.dataParallelSize, engineRoleOf(endpoint.role), null);
  const ranks = pool.endpoints.kubernetes?.dataParallelSize ?? 1;
  for (const target of discovered?.targets ?? []) add(target.address, ranks, engineRoleOf(target.role), target);
  return members;
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
