/**
 * Blocks kept in host memory beside the GPU pool: each full block is copied there once it is computed, the least recently used ones go first.
 * Follows vLLM's OffloadingConnector with one GPU block per chunk (`distributed/kv_transfer/kv_connector/v1/offloading_connector.py`).
 */
export class HostTier {
  readonly #capacity: number;
  /** In order of use, oldest first. */
  readonly #hashes = new Set<string>();

  /** @param capacity - blocks; 0 keeps nothing */
  constructor(capacity: number) {
    this.#capacity = capacity;
  }

  /** Stores what is not there yet and renews what is. */
  store(hashes: readonly string[]): { readonly stored: readonly string[]; readonly evicted: readonly string[] } {
    const stored: string[] = [];
    const evicted: string[] = [];
    if (this.#capacity === 0) return { stored, evicted };
    for (const hash of hashes) {
      if (this.#hashes.delete(hash)) {
        this.#hashes.add(hash);
        continue;
      }
      this.#hashes.add(hash);
      stored.push(hash);
      const [oldest] = this.#hashes;
      if (this.#hashes.size <= this.#capacity || oldest === undefined) continue;
      this.#hashes.delete(oldest);
      evicted.push(oldest);
    }
    return { stored, evicted };
  }

  /** How many of `hashes` from `first` on are here without a hole, up to `limit`. */
  leadingHits(hashes: readonly string[], first: number, limit: number): number {
    let count = 0;
    while (first + count < limit && this.#hashes.has(hashes[first + count] ?? "")) count += 1;
    return count;
  }

  hashes(): Iterable<string> {
    return this.#hashes;
  }
}
