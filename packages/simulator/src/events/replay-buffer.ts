export interface BufferedBatch {
  readonly sequence: number;
  readonly payload: Buffer;
}

/** The last batches of a publisher, oldest first, for replay (vLLM's `buffer_steps`). */
export class ReplayBuffer {
  readonly #capacity: number;
  #batches: BufferedBatch[] = [];
  /** Index of the oldest batch; what lies before it has been dropped and is cut away now and then. */
  #head = 0;

  constructor(capacity: number) {
    this.#capacity = capacity;
  }

  get size(): number {
    return this.#batches.length - this.#head;
  }

  push(batch: BufferedBatch): void {
    this.#batches.push(batch);
    if (this.size > this.#capacity) this.#head += 1;
    if (this.#head > 1024 && this.#head * 2 > this.#batches.length) {
      this.#batches = this.#batches.slice(this.#head);
      this.#head = 0;
    }
  }

  /** Batches from `sequence` on, ascending. */
  from(sequence: number): readonly BufferedBatch[] {
    let low = this.#head;
    let high = this.#batches.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if ((this.#batches[middle]?.sequence ?? 0) < sequence) low = middle + 1;
      else high = middle;
    }
    return this.#batches.slice(low);
  }

  clear(): void {
    this.#batches = [];
    this.#head = 0;
  }
}
