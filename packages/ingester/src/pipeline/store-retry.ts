import { setTimeout as sleep } from "node:timers/promises";
import { isKvatlasError } from "@kvatlas/shared/errors";
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
 * Other errors pass, and so does the last one when `signal` aborts.
 */
export async function untilStored<T>(call: () => Promise<T>, deps: StoreRetryDeps, signal: AbortSignal): Promise<T> {
  for (let attempt = 0; ; attempt++) {
    try {
      return await call();
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
