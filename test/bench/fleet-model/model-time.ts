import type { Clock } from "@kvatlas/shared/clock";

interface Event {
  readonly at: number;
  /** Events of one moment run in the order in which they were made. */
  readonly order: number;
  readonly run: () => void | Promise<void>;
  isCancelled: boolean;
}

/** Where the model's time begins: any moment will do, and 0 would look like "never" to code that compares wall clocks. */
const epochMs = 1_700_000_000_000;

/**
 * The time of a discrete-event model: a clock that jumps from one event to the next. Every component of the model that takes a clock or waits gets
 * its time from here, so a run is a function of its input.
 */
export class ModelTime implements Clock {
  readonly #heap: Event[] = [];
  #nowMs = 0;
  #order = 0;

  /** Milliseconds since the model began. */
  get elapsedMs(): number {
    return this.#nowMs;
  }

  now(): number {
    return epochMs + this.#nowMs;
  }

  monotonic(): number {
    return this.#nowMs;
  }

  /** Runs something later; returns what prevents it. */
  after(delayMs: number, run: Event["run"]): () => void {
    const event: Event = { at: this.#nowMs + Math.max(0, delayMs), order: this.#order, run, isCancelled: false };
    this.#order += 1;
    this.#push(event);
    return () => {
      event.isCancelled = true;
    };
  }

  /** Runs events until `isDone` says so or none are left. What an event does asynchronously is waited for: it takes no time of the model. */
  async run(isDone: () => boolean): Promise<void> {
    while (!isDone()) {
      const event = this.#pop();
      if (event === null) return;
      if (event.isCancelled) continue;
      this.#nowMs = event.at;
      const result = event.run();
      if (result !== undefined) await result;
    }
  }

  #push(event: Event): void {
    const heap = this.#heap;
    let at = heap.length;
    heap.push(event);
    while (at > 0) {
      const parent = (at - 1) >> 1;
      const above = heap[parent];
      if (above === undefined || !isBefore(event, above)) break;
      heap[at] = above;
      at = parent;
    }
    heap[at] = event;
  }

  #pop(): Event | null {
    const heap = this.#heap;
    const first = heap[0];
    const last = heap.pop();
    if (first === undefined || last === undefined) return null;
    if (heap.length === 0) return first;
    let at = 0;
    for (;;) {
      let child = 2 * at + 1;
      let least = heap[child];
      if (least === undefined) break;
      const right = heap[child + 1];
      if (right !== undefined && isBefore(right, least)) {
        child += 1;
        least = right;
      }
      if (!isBefore(least, last)) break;
      heap[at] = least;
      at = child;
    }
    heap[at] = last;
    return first;
  }
}

function isBefore(a: Event, b: Event): boolean {
  return a.at === b.at ? a.order < b.order : a.at < b.at;
}
