import type { BatchMark } from "../subscriber/sequence-tracker.ts";

/** The newest batch that is certainly in the index, looked for now and then: what has just been taken in is on its way. */
export class ProgressMark {
  #last: BatchMark | null = null;
  #candidate: BatchMark | null = null;

  /** The batch last taken in. */
  get last(): BatchMark | null {
    return this.#last;
  }

  taken(mark: BatchMark): void {
    this.#last = mark;
  }

  /** A batch at or below the watermark; null when none is known that was not told before. */
  look(watermark: number): BatchMark | null {
    const candidate = this.#candidate ?? this.#last;
    const isIn = candidate !== null && candidate.seq <= watermark;
    this.#candidate = isIn ? this.#last : candidate;
    return isIn ? candidate : null;
  }

  forget(): void {
    this.#last = null;
    this.#candidate = null;
  }
}
