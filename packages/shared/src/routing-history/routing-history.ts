import type { BlockKey, EndpointId, ScopeId } from "../types.ts";

/**
 * Keys of the leading blocks of a prompt, each of which stands for all blocks up to it. All of them, or some: always the same ones for the same
 * number of blocks in front.
 */
export interface RoutedChain {
  /** Namespace of the keys. */
  readonly scope: ScopeId;
  /** From the front of the prompt to its end. At most {@link MAX_CHAIN_KEYS}. */
  readonly keys: readonly BlockKey[];
}

/** Longer chains are cut by their callers: what comes after is as if nobody knew it. */
export const MAX_CHAIN_KEYS = 4_096;

/** A request was sent to an endpoint. */
export interface Routing {
  readonly chain: RoutedChain;
  readonly endpoint: EndpointId;
  /** ms since the epoch. */
  readonly at: number;
}

/** How far an endpoint was sent a chain. */
export interface RoutedMatch {
  /** Position of the last key that was part of a routing to it. */
  readonly position: number;
  /** ms since the epoch of the latest such routing. */
  readonly at: number;
}

export interface RoutedLookup {
  /** Routings before this moment do not count, ms since the epoch. */
  readonly sinceMs: number;
  /**
   * `whole`: chains are recorded from their first key on, so that the end of each endpoint's part can be found by halving. `sparse`: they are recorded at
   * their first key and at some of the others, so keys are read from the end; for few keys.
   */
  readonly form: "whole" | "sparse";
  readonly signal?: AbortSignal;
}

/**
 * What routers sent where, by prompt prefix: what is known of caches without, or ahead of, the replicas' events. Shared by all routers where it is
 * in Redis.
 *
 * Every method is one round trip. Rejects with KVATLAS_REDIS_UNAVAILABLE when the store cannot be reached; nothing is repeated by itself.
 */
export interface RoutingHistory {
  /** Results in the order of the chains: endpoints that were sent at least the first key. */
  lookup(chains: readonly RoutedChain[], options: RoutedLookup): Promise<readonly ReadonlyMap<EndpointId, RoutedMatch>[]>;
  /** Remembers routings for at least `ttlMs` after the latest one of a key. A later moment replaces an earlier one, never the other way round. */
  record(routings: readonly Routing[], ttlMs: number): Promise<void>;
  /** Takes routings back, where no later one has replaced them. */
  withdraw(routings: readonly Routing[]): Promise<void>;
}
