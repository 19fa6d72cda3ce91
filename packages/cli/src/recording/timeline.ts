import { createEngineClock } from "./engine-clock.ts";
import { bare, type EngineRun, type Exchange } from "./engine-run.ts";
import type { EngineBatch, StreamRun } from "./engine-stream.ts";
import { isJson } from "./recording-line.ts";

/** A batch with its place on the recorder's clock. */
export interface PlacedBatch extends EngineBatch {
  readonly atMs: number;
}

/** The batches of one publisher between two starts, placed in time. */
export interface PlacedRun {
  readonly batches: readonly PlacedBatch[];
}

/**
 * Places every batch on the recorder's clock: by its own time stamp, because frames can arrive long after the response of the request that
 * caused them, and replays much later still. Null when the recording has no live frame by which to compare the clocks.
 */
export function placeStream(runs: readonly StreamRun[], others: readonly StreamRun[]): readonly PlacedRun[] | null {
  const clock = createEngineClock(samplesOf(runs)) ?? createEngineClock(samplesOf(others));
  if (clock === null) return null;
  return runs.map((run) => ({
    batches: run.batches.map((batch) => ({ ...batch, atMs: clock(batch.batch.timestampSeconds * 1_000) })),
  }));
}

function samplesOf(runs: readonly StreamRun[]): { engineMs: number; receivedMs: number }[] {
  return runs.flatMap(({ batches }) =>
    batches.flatMap(({ batch, receivedMs }) => (receivedMs === null ? [] : [{ engineMs: batch.timestampSeconds * 1_000, receivedMs }])),
  );
}

/** Requests that ran while another one did, by note or by their times: what each of them found in the cache nobody can tell from outside. */
export function overlapping(exchanges: readonly Exchange[]): ReadonlySet<Exchange> {
  const overlapped = new Set<Exchange>(exchanges.filter(({ request }) => request.concurrent !== null));
  const inOrder = [...exchanges].sort((a, b) => a.request.atMs - b.request.atMs);
  let longest: Exchange | null = null;
  for (const exchange of inOrder) {
    if (longest !== null && exchange.request.atMs < endOf(longest)) overlapped.add(exchange).add(longest);
    if (longest === null || endOf(exchange) > endOf(longest)) longest = exchange;
  }
  return overlapped;
}

/** When the engine was done with it at the latest; never, as far as the recording tells, without a response. */
export function endOf({ response }: Exchange): number {
  return response?.atMs ?? Number.POSITIVE_INFINITY;
}

/** Calls after which the engine may have forgotten its cache, which it says only with its next batch (vLLM 0.10 to 0.33). */
const forgettingCalls = new Set(["/reset_prefix_cache", "/sleep", "/release_kv_cache_memory", "/pause"]);

/** When the engine dropped its cache on request. */
export function resetsOf({ http }: EngineRun): readonly number[] {
  return http
    .filter(({ path, status, body }) => {
      const refused = isJson(body) && body.success === false;
      return forgettingCalls.has(bare(path)) && status === 200 && !refused;
    })
    .map(({ atMs }) => atMs);
}

/** The end of what is known of a stream. */
export interface StreamEnd {
  /** Sequence number of the next batch. */
  readonly nextSeq: number;
  /** Place of the last batch; -Infinity before the first. */
  readonly lastMs: number;
  readonly hasLiveFrames: boolean;
}

/**
 * Whether nothing is missing between the last known batch and `atMs`: somebody was listening all the time, or asked for a replay afterwards.
 * Only the end of a stream needs this; a hole before a later batch shows in the numbers.
 */
export function isObserved(run: EngineRun, end: StreamEnd, atMs: number): boolean {
  if (run.replays.some((replay) => replay.atMs >= atMs && replay.start <= end.nextSeq)) return true;
  if (run.subscription.length === 0) return end.hasLiveFrames;
  const before = run.subscription.findLast((state) => state.atMs <= end.lastMs);
  const isUp = before === undefined ? run.subscription.some((state) => state.isUp && state.atMs <= atMs) : before.isUp;
  return isUp && !run.subscription.some((state) => !state.isUp && state.atMs > end.lastMs && state.atMs <= atMs);
}
