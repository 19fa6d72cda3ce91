import type { Clock } from "@kvatlas/shared/clock";
import type { BlockIndex } from "@kvatlas/shared/index/block-index";
import type { EndpointRegistry } from "@kvatlas/shared/registry/endpoint-registry";
import type { HousekeepingRecords } from "@kvatlas/shared/registry/housekeeping-records";
import type { ScopeId } from "@kvatlas/shared/types";
import { createPace, type Pace } from "./pace.ts";
import { afterSlice, dueWalk, fingerprint, scopeOfSweep, sweepStateFromText, sweepTask } from "./sweep-state.ts";

export interface PurgeDeps {
  readonly registry: Pick<EndpointRegistry, "endpoints" | "scopes">;
  readonly index: Pick<BlockIndex, "sweep" | "reclaim">;
  readonly records: Pick<HousekeepingRecords, "progress" | "saveProgress">;
  readonly clock: Clock;
  /** Called after every slice. */
  readonly onSlice: (examined: number, dropped: number) => void;
}

export interface PurgeOptions {
  readonly blocksPerSecond: number;
  /** One run ends after this time; the next one goes on where it stood. */
  readonly maxRunMs: number;
}

/** Blocks per slice: Redis, and every lookup with it, waits for a millisecond at most. */
const SLICE_BLOCKS = 200;

/** No scope: what no endpoint writes any more. */
const UNUSED = "sweep-unused";

type Slice = (cursor: string) => Promise<{ readonly next: string | null; readonly examined: number; readonly dropped: number }>;

/**
 * Reclaims what dead incarnations and departed endpoints have left: walks every scope whose endpoints have changed since its last whole walk, a
 * slice at a time, slowly. Where each walk stands is saved after every slice, so that a run that is killed anywhere is continued by whoever
 * runs next. Twice the same slice does no harm, nor do two runs at once.
 */
export async function purgeIndex(deps: PurgeDeps, options: PurgeOptions, signal: AbortSignal): Promise<{ readonly isDone: boolean }> {
  const { registry, index, records, clock } = deps;
  const deadline = clock.monotonic() + options.maxRunMs;
  const pace = createPace(clock, { perSecond: options.blocksPerSecond }, signal);
  const [scopes, endpoints, progress] = await Promise.all([registry.scopes(), registry.endpoints(), records.progress()]);
  for (const task of progress.keys()) {
    const scope = scopeOfSweep(task);
    if (scope !== null && !scopes.has(scope)) await records.saveProgress(task, null);
  }
  const walks: { readonly task: string; readonly current: string; readonly slice: Slice }[] = [...scopes.keys()].map((scope) => ({
    task: sweepTask(scope),
    current: fingerprint(endpoints.filter(({ meta }) => meta.scope === scope)),
    slice: (cursor) => index.sweep(scope, cursor, SLICE_BLOCKS),
  }));
  for (const { task, current, slice } of walks) {
    if (!(await finish(deps, pace, task, progress.get(task), current, slice, deadline))) return { isDone: false };
  }
  const used = new Set(endpoints.flatMap(({ meta }) => meta.scope ?? []));
  return { isDone: await reclaimUnused(deps, pace, used, progress.get(UNUSED), deadline) };
}

/** Reclaims what no endpoint writes any more. Every run looks: where there is nothing it costs one read. False when the time was up first. */
async function reclaimUnused(
  { index, records, clock, onSlice }: PurgeDeps,
  pace: Pace,
  used: ReadonlySet<ScopeId>,
  saved: string | undefined,
  deadline: number,
): Promise<boolean> {
  let isSaved = saved !== undefined;
  for (let cursor: string | null = saved ?? "0"; cursor !== null; ) {
    if (clock.monotonic() >= deadline) return false;
    const from: string = cursor;
    const { next, examined, dropped } = await pace.step(
      () => index.reclaim(used, from, SLICE_BLOCKS),
      () => SLICE_BLOCKS,
    );
    if (examined > 0) onSlice(examined, dropped);
    if (next !== null || isSaved) await records.saveProgress(UNUSED, next);
    isSaved = next !== null;
    cursor = next;
  }
  return true;
}

/** False when the time was up first. */
async function finish(
  { records, clock, onSlice }: PurgeDeps,
  pace: Pace,
  task: string,
  saved: string | undefined,
  current: string,
  slice: Slice,
  deadline: number,
): Promise<boolean> {
  let state = sweepStateFromText(saved);
  for (let walk = dueWalk(state, current); walk !== null; walk = dueWalk(state, current)) {
    if (clock.monotonic() >= deadline) return false;
    const { of, cursor } = walk;
    // An empty page has cost as much as a full one.
    const { next, examined, dropped } = await pace.step(
      () => slice(cursor),
      () => SLICE_BLOCKS,
    );
    onSlice(examined, dropped);
    state = afterSlice(state, { of }, next);
    await records.saveProgress(task, JSON.stringify(state));
  }
  return true;
}
