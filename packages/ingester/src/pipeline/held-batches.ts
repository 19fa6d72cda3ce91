import type { KvEvent } from "@kvatlas/shared/events/events";

export interface HeldBatch {
  readonly seq: number;
  readonly events: readonly KvEvent[];
  /** Size of the payload, as a measure of what is held. */
  readonly bytes: number;
  readonly receivedAt: number | null;
}

/**
 * Batches that came before the key scheme was known. Past its bound the oldest go: nothing of this incarnation has been written, so what
 * is lost with a beginning is some hits, never exactness (a removal of an unknown block changes nothing).
 */
export class HeldBatches {
  readonly #maxBytes: number;
  readonly #batches: HeldBatch[] = [];
  #bytes = 0;

  constructor(maxBytes: number) {
    this.#maxBytes = maxBytes;
  }

  get length(): number {
    return this.#batches.length;
  }

  /** Oldest first. */
  events(): readonly KvEvent[] {
    return this.#batches.flatMap(({ events }) => events);
  }

  /** Returns how many events had to go. */
  push(batch: HeldBatch): number {
    this.#batches.push(batch);
    this.#bytes += batch.bytes;
    let dropped = 0;
    while (this.#bytes > this.#maxBytes && this.#batches.length > 1) dropped += this.shift()?.events.length ?? 0;
    return dropped;
  }

  shift(): HeldBatch | undefined {
    const batch = this.#batches.shift();
    if (batch !== undefined) this.#bytes -= batch.bytes;
    return batch;
  }

  clear(): void {
    this.#batches.length = 0;
    this.#bytes = 0;
  }
}
