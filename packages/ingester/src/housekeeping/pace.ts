import { setTimeout as wait } from "node:timers/promises";
import type { Clock } from "@kvatlas/shared/clock";

export interface PaceOptions {
  /** Units of work per second, at most. */
  readonly perSecond: number;
  /** Part of the time that may be spent working, 0..1: a store that is slow because others need it gets longer pauses. @defaultValue 0.05 */
  readonly maxShare?: number;
}

/** Runs steps of work with pauses in between; rejects with the signal's reason once it has fired. */
export interface Pace {
  /** `units` of a step's result say how much work it was. */
  step<T>(work: () => Promise<T>, units: (result: T) => number): Promise<T>;
}

export function createPace(clock: Clock, options: PaceOptions, signal: AbortSignal): Pace {
  const share = options.maxShare ?? 0.05;
  let nextAt = Number.NEGATIVE_INFINITY;
  return {
    step: async (work, units) => {
      const pauseMs = nextAt - clock.monotonic();
      if (pauseMs > 0) await wait(pauseMs, undefined, { signal });
      signal.throwIfAborted();
      const began = clock.monotonic();
      const result = await work();
      const tookMs = clock.monotonic() - began;
      nextAt = began + Math.max((units(result) * 1_000) / options.perSecond, tookMs / share);
      return result;
    },
  };
}
