/** Id of one physical block. Block 0 is the null block of vLLM's pool and is never handed out. */
export type BlockId = number;

export interface BlockPoolOptions {
  /** Physical blocks, the null block included; at least 2. */
  readonly numBlocks: number;
  /** Freed blocks without a hash are reused before all others (0.24+) instead of queueing up at the back. */
  readonly unhashedFreedFirst: boolean;
  /** A cached block is being reused: one copy of this hash is gone. */
  readonly onEvicted: (hash: string) => void;
}

/**
 * Physical blocks with reference counts, a free queue in eviction order and a map from hash to the blocks that hold it.
 * Follows vLLM 0.33 `v1/core/block_pool.py`: no deduplication (one hash may live in several blocks), a freed block keeps its hash until it is
 * reused, the front of the queue is reused first.
 *
 * ```
 * free queue   [0]sentinel -> oldest -> ... -> newest -> [0]     (block 0 is the sentinel; it is never in the pool)
 * state        ref > 0: not in the queue;  ref = 0: in the queue, hittable while it has a hash
 * ```
 */
export class BlockPool {
  readonly numBlocks: number;
  readonly #unhashedFreedFirst: boolean;
  readonly #onEvicted: (hash: string) => void;
  readonly #refCount: Int32Array;
  readonly #next: Int32Array;
  readonly #previous: Int32Array;
  readonly #hashOf: (string | null)[];
  /** Copies in insertion order; a plain number while there is one. */
  readonly #blocksOf = new Map<string, BlockId | BlockId[]>();
  #freeCount: number;

  constructor(options: BlockPoolOptions) {
    this.numBlocks = options.numBlocks;
    this.#unhashedFreedFirst = options.unhashedFreedFirst;
    this.#onEvicted = options.onEvicted;
    this.#refCount = new Int32Array(options.numBlocks);
    this.#next = new Int32Array(options.numBlocks);
    this.#previous = new Int32Array(options.numBlocks);
    this.#hashOf = new Array<string | null>(options.numBlocks).fill(null);
    for (let id = 0; id < options.numBlocks; id += 1) {
      this.#next[id] = (id + 1) % options.numBlocks;
      this.#previous[id] = (id + options.numBlocks - 1) % options.numBlocks;
    }
    this.#freeCount = options.numBlocks - 1;
  }

  /** Blocks that can be handed out, cached ones included. */
  get freeBlocks(): number {
    return this.#freeCount;
  }

  /** Share of blocks in use by requests, 0 to 1; what `vllm:kv_cache_usage_perc` shows. */
  get usage(): number {
    return 1 - this.#freeCount / (this.numBlocks - 1);
  }

  /** Blocks that hold the leading hashes, at most `limit`, the first copy of each. */
  leadingHits(hashes: readonly string[], limit: number): BlockId[] {
    const hits: BlockId[] = [];
    for (let i = 0; i < limit && i < hashes.length; i += 1) {
      const entry = this.#blocksOf.get(hashes[i] ?? "");
      if (entry === undefined) break;
      hits.push(typeof entry === "number" ? entry : (entry[0] ?? 0));
    }
    return hits;
  }

  /** How many of these blocks are in the free queue, so that touching them takes free capacity. */
  countFree(ids: readonly BlockId[]): number {
    let count = 0;
    for (const id of ids) if (this.#refCount[id] === 0) count += 1;
    return count;
  }

  /** Takes a reference on each block. */
  touch(ids: readonly BlockId[]): void {
    for (const id of ids) {
      if (this.#refCount[id] === 0) this.#unlink(id);
      this.#addReference(id, 1);
    }
  }

  /** Takes `count` blocks from the front of the free queue; the caller has checked `freeBlocks`. Cached ones lose their hash (`onEvicted`). */
  allocate(count: number): BlockId[] {
    if (count > this.#freeCount) throw new RangeError(`${count} blocks asked for, ${this.#freeCount} are free`);
    const ids: BlockId[] = [];
    for (let i = 0; i < count; i += 1) {
      const id = this.#next[0] ?? 0;
      this.#unlink(id);
      this.#evict(id);
      this.#addReference(id, 1);
      ids.push(id);
    }
    return ids;
  }

  /** A block has become full: it can be hit under this hash from here on. */
  insert(id: BlockId, hash: string): void {
    this.#hashOf[id] = hash;
    const entry = this.#blocksOf.get(hash);
    if (entry === undefined) this.#blocksOf.set(hash, id);
    else if (typeof entry === "number") this.#blocksOf.set(hash, [entry, id]);
    else entry.push(id);
  }

  /** Drops a reference on each block. Callers pass the tail of a request first, so that prefixes survive longest. */
  free(ids: readonly BlockId[]): void {
    const unhashed: BlockId[] = [];
    for (const id of ids) {
      this.#addReference(id, -1);
      if (this.#refCount[id] !== 0) continue;
      if (this.#unhashedFreedFirst && this.#hashOf[id] === null) unhashed.push(id);
      else this.#link(id, this.#previous[0] ?? 0);
    }
    for (let i = unhashed.length - 1; i >= 0; i -= 1) this.#link(unhashed[i] ?? 0, 0);
  }

  /** Forgets every hash. False, and nothing happens, while a request holds blocks. */
  reset(): boolean {
    if (this.#freeCount !== this.numBlocks - 1) return false;
    this.#blocksOf.clear();
    this.#hashOf.fill(null);
    return true;
  }

  /** Every cached hash with its number of copies. */
  copies(): Map<string, number> {
    const result = new Map<string, number>();
    for (const [hash, entry] of this.#blocksOf) result.set(hash, typeof entry === "number" ? 1 : entry.length);
    return result;
  }

  #addReference(id: BlockId, delta: number): void {
    this.#refCount[id] = (this.#refCount[id] ?? 0) + delta;
  }

  #evict(id: BlockId): void {
    const hash = this.#hashOf[id] ?? null;
    if (hash === null) return;
    this.#hashOf[id] = null;
    const entry = this.#blocksOf.get(hash);
    if (typeof entry === "number" || entry === undefined) this.#blocksOf.delete(hash);
    else {
      const rest = entry.filter((other) => other !== id);
      const [only] = rest;
      this.#blocksOf.set(hash, rest.length === 1 && only !== undefined ? only : rest);
    }
    this.#onEvicted(hash);
  }

  #unlink(id: BlockId): void {
    const next = this.#next[id] ?? 0;
    const previous = this.#previous[id] ?? 0;
    this.#next[previous] = next;
    this.#previous[next] = previous;
    this.#freeCount -= 1;
  }

  #link(id: BlockId, after: BlockId): void {
    const next = this.#next[after] ?? 0;
    this.#next[after] = id;
    this.#previous[id] = after;
    this.#next[id] = next;
    this.#previous[next] = id;
    this.#freeCount += 1;
  }
}
