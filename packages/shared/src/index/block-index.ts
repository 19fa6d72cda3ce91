import type { BlockKey, CacheGroup, CacheGroupId, EndpointId, EngineHash, Medium, ScopeId } from "../types.ts";

/** A run of equal operations of one engine batch; runs keep the engine's order, because a removal may precede a store of the same block. */
export interface IndexOp {
  /** `confirm`: held at least once, without counting a further copy. */
  readonly op: "store" | "remove" | "confirm";
  readonly medium: Medium;
  readonly group: CacheGroupId;
  readonly keys: readonly BlockKey[];
  /**
   * What the engine calls these blocks, one name per key, where its removals cannot be told from keys alone (content scheme). The index keeps a name
   * as long as the endpoint holds the block in that group, in the same atomic step: so whatever is held can be removed, whatever the store loses.
   */
  readonly names?: readonly EngineHash[];
}

/** A block as its engine calls it: the same hash in two cache groups has two lives. */
export interface BlockName {
  readonly hash: EngineHash;
  readonly group: CacheGroupId;
}

/** The operations of one engine batch. Batches without operations are passed too: they move the watermark. */
export interface SequencedOps {
  /** Sequence number the engine gave the batch. */
  readonly seq: number;
  readonly ops: readonly IndexOp[];
}

export interface WriterTarget {
  readonly scope: ScopeId;
  readonly endpoint: EndpointId;
  /** Current incarnation of the endpoint, as announced in its registry entry. */
  readonly incarnation: number;
  /** Sequence number at which that incarnation begins: what the watermark is worth in a shard that has seen nothing of it. */
  readonly from: number;
  /** Fencing number of the caller's lease. */
  readonly fence: number;
}

export interface ApplyResult {
  /** Units of work (one batch, or several, or part of one in one shard) that were applied by this call, and those that had been applied before. */
  readonly applied: number;
  readonly duplicates: number;
  /** Removals of a block that the endpoint was not known to hold. */
  readonly unknownRemovals: number;
}

/**
 * The only way to write an endpoint's blocks: one writer per endpoint at a time, guarded by its fence.
 * Calls of one writer run one after another (a second `apply` waits for the first).
 */
export interface IndexWriter {
  readonly target: WriterTarget;
  /**
   * Highest sequence number of which every shard has all operations; `target.from - 1` when none. Replay resumes at `applied + 1`.
   * Another owner may be told a lower one by `openWriter`, as long as nobody has called `settle`.
   */
  readonly applied: number;
  /**
   * Applies batches in ascending `seq`. Per shard atomic and exactly once: a part at or below a shard's watermark is skipped there.
   * The watermark of a shard without operations in these batches may lag behind; `settle` brings it up.
   * Copies are counted per (endpoint, group, medium, key); an entry of another incarnation counts as absent.
   * One round trip on a single Redis.
   *
   * @throws KVATLAS_INDEX_FENCED a later owner has taken over: stop writing, for good.
   * @throws KVATLAS_INDEX_STALE_INCARNATION a later incarnation has been opened by the same or a later owner, or the endpoint has been forgotten while
   * its blocks are still there: what the store holds of this incarnation cannot be continued. Start a new incarnation (registry) and open a writer for it.
   * @throws KVATLAS_INDEX_BEHIND the store has lost writes it had acknowledged (failover, flush): `applied` has been lowered to what it holds; replay from there.
   * @throws KVATLAS_REDIS_UNAVAILABLE outcome unknown; calling again with the same batches is safe.
   */
  apply(batches: readonly SequencedOps[]): Promise<ApplyResult>;
  /** Keys of blocks that this incarnation holds under these names, null for others; as of what has been applied. One round trip. */
  keysOf(names: readonly BlockName[]): Promise<readonly (BlockKey | null)[]>;
  /** Moves every shard's watermark to `applied`. For hand-over and idle moments. */
  settle(): Promise<void>;
  /**
   * Sees that every shard is still where this writer has left it. For quiet moments: a store that has lost writes is found out by `apply` only when there
   * is something to apply. One read per shard. Rejects like `apply`.
   */
  verify(): Promise<void>;
}

/** One chain of keys to look up. */
export interface PrefixQuery {
  readonly scope: ScopeId;
  /** Keys of the chain from block 0 on; pass at most floor((n-1)/B) of them: an engine never serves the last token from cache. */
  readonly keys: readonly BlockKey[];
  /** Cache groups by endpoint; endpoints not named here have one full-attention group 0. */
  readonly groups?: ReadonlyMap<EndpointId, readonly CacheGroup[]>;
}

/** How much of a chain one endpoint holds. */
export interface PrefixMatch {
  /** Leading blocks present in any medium, confirmed by every sliding-window group. */
  readonly blocks: number;
  /** `blocks` split by the best medium of each block (gpu before cpu before storage before other). Sums to `blocks`. */
  readonly byMedium: Readonly<Partial<Record<Medium, number>>>;
}

/** Endpoints that hold at least one leading block. */
export type PrefixMatches = ReadonlyMap<EndpointId, PrefixMatch>;

export interface LookupOptions {
  /** `probe` looks at O(log n) positions in one round trip (up to three for sliding windows), relying on residency being prefix-closed; `exact` reads every key. @defaultValue "probe" */
  readonly method?: "probe" | "exact";
  readonly signal?: AbortSignal;
}

/** One holder of one block, as stored. */
export interface BlockHolder {
  readonly endpoint: EndpointId;
  readonly group: CacheGroupId;
  readonly incarnation: number;
  /** False when the entry is of an incarnation that is no longer the endpoint's. */
  readonly live: boolean;
  readonly copies: Readonly<Partial<Record<Medium, number>>>;
}

/** One block as the index has it, dead entries included. */
export interface IndexedBlock {
  readonly key: BlockKey;
  readonly holders: readonly BlockHolder[];
}

/** How far one endpoint's events are in a scope. */
export interface IndexPosition {
  readonly incarnation: number;
  readonly fence: number;
  /** Highest sequence number of which every shard has all operations; null while shards differ in incarnation (one is being opened). */
  readonly applied: number | null;
}

/** What the blocks of one scope amount to. */
export interface ScopeCensus {
  readonly blocks: number;
  /** Entries that count, and those that a sweep will reclaim, by endpoint. */
  readonly holders: ReadonlyMap<EndpointId, { readonly live: number; readonly dead: number }>;
  /** Memory of the blocks, keys included; null where the store does not tell. */
  readonly bytes: number | null;
}

export interface IndexCensus {
  readonly scopes: ReadonlyMap<ScopeId, ScopeCensus>;
  /** True when everything was counted; else the numbers are projected from a random part of the store. */
  readonly isExact: boolean;
  /** Keys that were looked at, and that there are, whatever they belong to. */
  readonly examined: number;
  readonly total: number;
}

/**
 * Who holds which block. Scopes are independent namespaces of keys.
 *
 * Readers and writers need no coordination: a reader sees each shard before or after a script call, never in between.
 * Entries of another incarnation than the endpoint's current one are invisible to `lookup` from the moment `openWriter` returns.
 * Cost of `lookup`: one round trip, three where sliding windows have to be seen, whatever the number of keys or endpoints.
 * When the store is unreachable every method rejects with KVATLAS_REDIS_UNAVAILABLE (request role: within its command time-out).
 */
export interface BlockIndex {
  /**
   * Takes the endpoint over: raises the fence in every shard of the scope and, for a new incarnation, makes all earlier entries dead at once.
   *
   * @throws KVATLAS_INDEX_FENCED a shard has seen a higher fence.
   * @throws KVATLAS_INDEX_STALE_INCARNATION a shard has seen a higher incarnation.
   */
  openWriter(target: WriterTarget): Promise<IndexWriter>;
  /** Results in the order of the queries. A scope that nobody has written gives an empty map. */
  lookup(queries: readonly PrefixQuery[], options?: LookupOptions): Promise<readonly PrefixMatches[]>;
  /** The raw holders of one block, dead ones included; for people and audits. */
  holders(scope: ScopeId, key: BlockKey): Promise<readonly BlockHolder[]>;
  /** As {@link IndexWriter.keysOf}, for people and audits. */
  keysOf(
    scope: ScopeId,
    holder: { readonly endpoint: EndpointId; readonly incarnation: number },
    names: readonly BlockName[],
  ): Promise<readonly (BlockKey | null)[]>;
  /** Forgets a departed endpoint in a scope at once (its entries die); bytes are reclaimed by `sweep`. */
  forget(scope: ScopeId, endpoint: EndpointId): Promise<void>;
  /**
   * Reclaims dead entries, a slice at a time: examines about `limit` blocks from `cursor` ("0" to begin) and returns where to go on (null: done).
   * Scans, like `walk` and `census` and nothing else; callers limit the rate.
   */
  sweep(
    scope: ScopeId,
    cursor: string,
    limit: number,
  ): Promise<{ readonly next: string | null; readonly examined: number; readonly dropped: number }>;
  /**
   * Reclaims what nobody uses any more, a slice at a time like `sweep`: the keys that a scope had before it was registered with another layout, and scopes
   * that are not among `used`, blocks and registration, once no endpoint has a position there. What is in use is left alone, and looked at again when
   * the walk begins anew.
   *
   * @param used scopes that some endpoint names as its own
   */
  reclaim(
    used: ReadonlySet<ScopeId>,
    cursor: string,
    limit: number,
  ): Promise<{ readonly next: string | null; readonly examined: number; readonly dropped: number }>;
  /**
   * Reads a scope a slice at a time, in no order: about `limit` blocks from `cursor` ("0" to begin), and where to go on (null: done). Blocks that
   * are there throughout are met at least once; for audits and people.
   */
  walk(scope: ScopeId, cursor: string, limit: number): Promise<{ readonly next: string | null; readonly blocks: readonly IndexedBlock[] }>;
  /** Every endpoint that writes in a scope, and how far it is. */
  positions(scope: ScopeId): Promise<ReadonlyMap<EndpointId, IndexPosition>>;
  /** Counts blocks, entries and bytes of every scope, looking at `maxKeys` keys of the store at most. */
  census(maxKeys: number): Promise<IndexCensus>;
  close(): Promise<void>;
}
