import type { PoolConfig } from "@kvatlas/shared/config/schema";
import type { EndpointId } from "@kvatlas/shared/types";

/** One event publisher to look after: a replica, or one data-parallel rank of it. */
export interface ReplicaTarget {
  readonly endpoint: EndpointId;
  /** `host:port` of the HTTP server; ranks behind one port share it. */
  readonly address: string;
  readonly rank: number;
  readonly pool: PoolConfig;
  /** Model name in requests. */
  readonly model: string;
  /** Where to dial for events, rank offset included; null: it dials us, or is to be asked. */
  readonly events: string | null;
  /** With `events` null: whether the replica is asked where it publishes (`/kv_event_sources`, vLLM 0.31 and on). @defaultValue false */
  readonly seeksEvents?: boolean;
  /** Where to ask for replays, rank offset included; null: to be asked from the replica. */
  readonly replay: string | null;
}

/** `host:port`, plus `/rank` for ranks above 0 behind one port. */
export function endpointIdOf(address: string, rank: number): EndpointId {
  return (rank === 0 ? address : `${address}/${rank}`) as EndpointId;
}

/** Adds a rank to the port of a tcp address, as vLLM does for data-parallel ranks; other transports are left alone. */
export function offsetPort(address: string, rank: number): string {
  if (rank === 0) return address;
  return address.replace(/^(tcp:\/\/.*:)(\d+)$/, (_, head: string, port: string) => `${head}${Number(port) + rank}`);
}

/** What ranks behind one port have in common. */
export interface ReplicaAddress {
  readonly address: string;
  /** Of rank 0; null as in {@link ReplicaTarget}. */
  readonly events: string | null;
  readonly replay: string | null;
  readonly dataParallelSize: number;
}

/**
 * One target per data-parallel rank.
 *
 * @param seek - a replica without an events address is asked for it, as it cannot dial us
 */
export function targetsOfReplica(replica: ReplicaAddress, pool: PoolConfig, seek: boolean): readonly ReplicaTarget[] {
  const { address, events, replay } = replica;
  return Array.from({ length: replica.dataParallelSize }, (_, rank) => ({
    endpoint: endpointIdOf(address, rank),
    address,
    rank,
    pool,
    model: pool.model,
    events: events === null ? null : offsetPort(events, rank),
    replay: replay === null ? null : offsetPort(replay, rank),
    ...(events === null && seek ? { seeksEvents: true } : {}),
  }));
}
