import { isKvatlasError } from "@kvatlas/shared/errors";
import { decodeEventBatch } from "@kvatlas/shared/events/vllm-decoder";
import { type EngineFrame, peekTimestamp } from "../subscriber/frame.ts";
import { type BatchMark, isOfAnotherRun, nextStep, type SequenceStep } from "../subscriber/sequence-tracker.ts";

/**
 * Where one endpoint's stream stands. `applied` as in the sequence tracker means taken in; what is in the index for certain is the applier's
 * watermark.
 */
export class StreamPosition {
  live = -1;
  applied = -1;
  /** The batch by which a replay shows whether it is of the run of the engine that the index holds. */
  mark: BatchMark | null = null;
  /** Timestamp of the earliest batch known of this run of the engine, in seconds by the engine's clock; null when none is. */
  since: number | null = null;

  /** Goes on after `applied`; a mark above it is of no use. */
  resume(applied: number, mark: BatchMark | null): void {
    this.applied = applied;
    this.mark = mark !== null && mark.seq <= applied ? mark : null;
    this.since = this.mark?.timestampSeconds ?? null;
  }

  /** A batch has been taken in. */
  taken(seq: number, mark: BatchMark | null): void {
    this.applied = seq;
    this.mark = mark;
    this.since ??= mark?.timestampSeconds ?? null;
  }

  /** Another run of the engine: its numbers begin at 0. */
  reset(): void {
    this.live = -1;
    this.resume(-1, null);
  }

  step(seq: number): SequenceStep {
    return nextStep({ live: this.live, applied: this.applied }, seq);
  }

  /** The mark, when it can be compared with what a replay begins with. */
  get comparable(): BatchMark | null {
    return this.mark !== null && this.mark.seq <= this.applied ? this.mark : null;
  }

  isOfAnotherRun(frame: EngineFrame): boolean {
    if (this.mark === null || frame.seq > this.mark.seq) return false;
    const timestampSeconds = peekTimestamp(frame.payload) ?? decodedTimestamp(frame.payload);
    return timestampSeconds !== null && isOfAnotherRun(this.mark, { seq: frame.seq, timestampSeconds });
  }
}

function decodedTimestamp(payload: Uint8Array): number | null {
  try {
    return decodeEventBatch(payload).timestampSeconds;
  } catch (error) {
    if (isKvatlasError(error)) return null;
    throw error;
  }
}
