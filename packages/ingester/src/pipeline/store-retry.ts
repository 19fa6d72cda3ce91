import { setTimeout as sleep } from "node:timers/promises";
import { isKvatlasError, KvatlasError } from "@kvatlas/shared/errors";
import type { Logger } from "@kvatlas/shared/logger";

const firstDelayMs = 20;
const maxDelayMs = 1_000;

export interface StoreRetryDeps {
  readonly logger: Logger;
  /** Called before each repetition. */
  readonly onRetry?: () => void;
}

/**
 * Repeats a call until the store answers: every call of index and registry is safe to repeat. The ingest path waits and never lies; what
 * comes in meanwhile queues up, bounded.
 *
 * Other errors pass. When `signal` aborts nobody waits any longer, though a call under way may still reach the store: it does no harm there, it
 * is applied once, in order and under its fence, or not at all.
 */
export async function untilStored<T>(call: () => Promise<T>, deps: StoreRetryDeps, signal: AbortSignal): Promise<T> {
  for (let attempt = 0; ; attempt++) {
    try {
      return await orAborted(call(), signal);
    } catch (error) {
      if (!isKvatlasError(error, "KVATLAS_REDIS_UNAVAILABLE") || signal.aborted) throw error;
      if (attempt === 0) deps.logger.warn({ err: error }, "the store does not answer; the same call is repeated until it does");
      deps.onRetry?.();
      const delayMs = Math.min(maxDelayMs, firstDelayMs * 2 ** Math.min(attempt, 10));
      try {
        await sleep(delayMs, undefined, { signal });
      } catch {
        throw error;
      }
    }
  }
}

/**
 * The promise's outcome, or a rejection with KVATLAS_REDIS_UNAVAILABLE as soon as `signal` aborts: clients of background work wait for the
 * store for ever.
 */
export async function orAborted<T>(promise: Promise<T>, signal: AbortSignal): Promise<T> {
  let onAbort = (): void => {};
  const aborted = new Promise<never>((_, reject) => {
    onAbort = () => reject(new KvatlasError("KVATLAS_REDIS_UNAVAILABLE", "The store had not answered when the work was given up."));
    if (signal.aborted) onAbort();
    else signal.addEventListener("abort", onAbort, { once: true });
  });
  try {
    return await Promise.race([promise, aborted]);
  } finally {
    signal.removeEventListener("abort", onAbort);
  }
}
