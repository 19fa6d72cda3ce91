/** A live batch: the engine's time stamp and the moment it was received, both in milliseconds but on different clocks. */
export interface ClockSample {
  readonly engineMs: number;
  readonly receivedMs: number;
}

/**
 * Live batches that vote on the difference of the clocks. Delivery is late by less than a millisecond or by up to a second, so the smallest
 * difference among a few neighbours is the true one; neighbours only, because clocks of different machines drift.
 */
const neighbours = 32;

/**
 * Places engine time stamps on the recorder's clock. Null without samples.
 *
 * A batch's own stamp tells when its step ended; its arrival does not, being up to 0.7 s late when the engine is busy.
 */
export function createEngineClock(samples: readonly ClockSample[]): ((engineMs: number) => number) | null {
  const sorted = [...samples].sort((a, b) => a.engineMs - b.engineMs);
  if (sorted.length === 0) return null;
  const offsets = sorted.map(({ engineMs, receivedMs }) => receivedMs - engineMs);
  return (engineMs) => {
    const next = lowerBound(sorted, engineMs);
    const start = Math.max(0, Math.min(next - neighbours / 2, sorted.length - neighbours));
    let offset = Number.POSITIVE_INFINITY;
    for (const candidate of offsets.slice(start, start + neighbours)) offset = Math.min(offset, candidate);
    return engineMs + offset;
  };
}

function lowerBound(samples: readonly ClockSample[], engineMs: number): number {
  let low = 0;
  let high = samples.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    const sample = samples[middle];
    if (sample !== undefined && sample.engineMs < engineMs) low = middle + 1;
    else high = middle;
  }
  return low;
}
