/** Value types of the whole system. No logic, imports nothing. */

declare const brand: unique symbol;
type Branded<T, Name extends string> = T & { readonly [brand]: Name };

/** 64-bit key of one full block of tokens within its chain: 16 lower-case hex digits. */
export type BlockKey = Branded<string, "BlockKey">;

/** Low 64 bits of the block hash an engine sends in its events: 16 lower-case hex digits. Under a native key scheme it is the block key. */
export type EngineHash = Branded<string, "EngineHash">;

/** One event publisher of one replica: `host:port` of its HTTP address, plus `/rank` for data-parallel ranks above 0 behind one port. */
export type EndpointId = Branded<string, "EndpointId">;

/** Readable id of (model, block size, key scheme, seed): the namespace in which block keys are comparable. */
export type ScopeId = Branded<string, "ScopeId">;

/** Where a block lives. Engines write these in upper or lower case; FS and OBJ are storage; anything unknown is `other`. */
export type Medium = "gpu" | "cpu" | "storage" | "other";

/** Index of a KV-cache group of a hybrid model; 0 for models with one group. */
export type CacheGroupId = number;

/** What one KV-cache group of an engine is, learned from its stores. */
export interface CacheGroup {
  readonly id: CacheGroupId;
  /** `full` holds every block of a sequence; `sliding` only those inside its window; `other` (mamba and the like) never limits a prediction. */
  readonly kind: "full" | "sliding" | "other";
  /** Tokens per block of this group. */
  readonly blockSizeTokens: number;
  /** Attention window in tokens; null unless `kind` is `sliding`. */
  readonly windowTokens: number | null;
}
