import { createHash } from "node:crypto";
import type { EndpointRecord } from "@kvatlas/shared/registry/endpoint-registry";
import type { ScopeId } from "@kvatlas/shared/types";

const SWEEP_TASK_PREFIX = "sweep ";

/** How far a walk over everything that may hold dead entries has come. */
export interface SweepState {
  /** What the last whole walk has left nothing dead of; null before the first. */
  readonly done: string | null;
  /** What the walk under way began with, and where it goes on; null between walks. */
  readonly walk: { readonly of: string; readonly cursor: string } | null;
}

/** Under which the state of a scope's walk is saved. */
export function sweepTask(scope: ScopeId): string {
  return `${SWEEP_TASK_PREFIX}${scope}`;
}

/** Of a task that `sweepTask` has named; null for any other. */
export function scopeOfSweep(task: string): ScopeId | null {
  return task.startsWith(SWEEP_TASK_PREFIX) ? (task.slice(SWEEP_TASK_PREFIX.length) as ScopeId) : null;
}

export const neverSwept: SweepState = { done: null, walk: null };

/** What cannot be read counts as never swept: the walk begins anew, which does no harm. */
export function sweepStateFromText(text: string | undefined): SweepState {
  try {
    const value = JSON.parse(text ?? "null") as {
      readonly done?: unknown;
      readonly walk?: { readonly of?: unknown; readonly cursor?: unknown };
    } | null;
    const { done, walk } = value ?? {};
    return {
      done: typeof done === "string" ? done : null,
      walk: typeof walk?.of === "string" && typeof walk.cursor === "string" ? { of: walk.of, cursor: walk.cursor } : null,
    };
  } catch {
    return neverSwept;
  }
}

/**
 * What dead entries come from: while the endpoints and their incarnations stay the same as at the beginning of the last whole walk, there are none, but
 * those of endpoints that came and went in between. Whoever forgets one forgets the state of the walk as well. Short, because it is saved with every slice.
 */
export function fingerprint(records: readonly EndpointRecord[]): string {
  const text = records
    .map((record) => `${record.id}=${record.state.incarnation}`)
    .sort()
    .join(" ");
  return createHash("sha256").update(text).digest("hex").slice(0, 16);
}

/** The walk to go on with, or to begin; null when nothing can be dead. */
export function dueWalk(state: SweepState, current: string): { readonly of: string; readonly cursor: string } | null {
  return state.walk ?? (state.done === current ? null : { of: current, cursor: "0" });
}

/** After a slice of `walk` that ended at `next`. */
export function afterSlice(state: SweepState, walk: { readonly of: string }, next: string | null): SweepState {
  return next === null ? { done: walk.of, walk: null } : { done: state.done, walk: { of: walk.of, cursor: next } };
}
