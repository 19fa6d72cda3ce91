import type { CacheGroupId, EngineHash, Medium } from "../types.ts";

/**
 * KV-cache events in one form, whatever an engine's release sent (vLLM 0.10 to 0.33, arrays or maps).
 * Field meanings: vLLM `distributed/kv_events.py`.
 */
export type KvEvent = BlockStored | BlockRemoved | AllBlocksCleared;

/** An element of `extra_keys` as it stands on the wire: LoRA name, [identifier, offset], salt, digest. */
export type WireExtra = string | number | bigint | Uint8Array | null | readonly WireExtra[];

export interface BlockStored {
  readonly kind: "stored";
  /** Hashes of the stored blocks in chain order; can be fewer than the tokens would fill (hybrid models), or none. */
  readonly hashes: readonly EngineHash[];
  /** Hash of the block before the first one; null when the first is block 0 of its chain. */
  readonly parent: EngineHash | null;
  /** Tokens of the newly stored range; empty in hash-only events. */
  readonly tokenIds: readonly number[];
  /** Tokens per block of the emitting group; 0 in hash-only events of some releases. */
  readonly blockSizeTokens: number;
  readonly medium: Medium;
  readonly loraId: number | null;
  readonly loraName: string | null;
  /** One entry per hash, null where a block has none; null as a whole when the engine sent none (always so before 0.17). */
  readonly extraKeys: readonly (readonly WireExtra[] | null)[] | null;
  readonly group: CacheGroupId;
  readonly specKind: string | null;
  readonly slidingWindowTokens: number | null;
  /** 0.33 with EAGLE or MTP: the tokens after each block, one list per hash. */
  readonly lookahead: readonly (readonly number[])[] | null;
}

export interface BlockRemoved {
  readonly kind: "removed";
  readonly hashes: readonly EngineHash[];
  readonly medium: Medium;
  readonly group: CacheGroupId;
}

export interface AllBlocksCleared {
  readonly kind: "cleared";
}

/** Wire form of a batch; a hint to the engine's release. */
export type WireForm = "array" | "map" | "map16";

export interface EventBatch {
  /** Engine's clock, seconds since the epoch. */
  readonly timestampSeconds: number;
  readonly events: readonly KvEvent[];
  /** Data-parallel rank, 0 without data parallelism. */
  readonly rank: number;
  /** Of the first event that tells; null for a batch without events. */
  readonly wireForm: WireForm | null;
  /** What was passed over, by reason (`unknown tag`, `bad hash`, ...). Never fails the batch. */
  readonly skipped: ReadonlyMap<string, number>;
}
