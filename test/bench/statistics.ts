/** Percentiles of some measurements, rounded to what a reader needs. */
export function percentiles(values: readonly number[]): { readonly p50: number; readonly p99: number; readonly max: number } {
  const sorted = Float64Array.from(values).sort();
  const at = (share: number) => round(sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? 0);
  return { p50: at(0.5), p99: at(0.99), max: round(sorted.at(-1) ?? 0) };
}

export function round(value: number, digits = 3): number {
  return Number(value.toFixed(digits));
}

/** Deterministic numbers in [0, 2^32): benches must do the same work in every run. */
export function createRandom(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return state;
  };
}
