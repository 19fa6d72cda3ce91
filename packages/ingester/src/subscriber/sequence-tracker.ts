/** Where an endpoint's stream stands. Engines count batches from 0; both fields are -1 before the first. */
export interface SequencePosition {
  /** Last number seen on the live socket; only a restart of the engine makes a later one smaller. */
  readonly live: number;
  /** Last number taken into the index; a replay can carry it past `live`. */
  readonly applied: number;
}

/** What to do with a live frame. */
export type SequenceStep =
  | { readonly kind: "apply" }
  | { readonly kind: "duplicate" }
  /** `from`..`to` are missing, both inclusive. */
  | { readonly kind: "gap"; readonly from: number; readonly to: number }
  | { readonly kind: "restart" };

/**
 * Decides what to do with a frame from the live socket (vLLM 0.10 to 0.33: numbers count from 0 per publisher process, +1 per batch).
 * The caller then sets `live` to the received number, also for a duplicate.
 */
export function nextStep(position: SequencePosition, received: number): SequenceStep {
  if (received <= position.live) return { kind: "restart" };
  if (received <= position.applied) return { kind: "duplicate" };
  if (received === position.applied + 1) return { kind: "apply" };
  return { kind: "gap", from: position.applied + 1, to: received - 1 };
}

/** A batch that is known to be in the index, with the engine's own time stamp. */
export interface BatchMark {
  readonly seq: number;
  readonly timestampSeconds: number;
}

/**
 * True when a batch proves that the engine has restarted since `mark`, although its number alone does not: the same number with another
 * time stamp, or an earlier number with a later one. Numbers begin at 0 again after a restart and may have passed the old ones unseen.
 */
export function isOfAnotherRun(mark: BatchMark | null, batch: BatchMark): boolean {
  if (mark === null) return false;
  if (batch.seq === mark.seq) return batch.timestampSeconds !== mark.timestampSeconds;
  return batch.seq < mark.seq && batch.timestampSeconds > mark.timestampSeconds;
}
