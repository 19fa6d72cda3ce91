import { KvatlasError } from "./errors.ts";
import { redisError } from "./redis-error.ts";

/**
 * The outcome of a call to Redis, unless its time runs out or its caller loses interest first.
 *
 * @throws KVATLAS_REDIS_UNAVAILABLE, KVATLAS_DEADLINE_EXCEEDED
 */
export function withDeadline<T>(promise: Promise<T>, timeoutMs: number, signal: AbortSignal | undefined): Promise<T> {
  return new Promise((resolve, reject) => {
    const onAbort = () => settle(() => reject(signal === undefined ? null : cancelled(signal)));
    const onTimeout = () =>
      settle(() => reject(new KvatlasError("KVATLAS_REDIS_UNAVAILABLE", `Redis did not answer within ${Math.round(timeoutMs)} ms.`)));
    const timer = setTimeout(onTimeout, timeoutMs);
    signal?.addEventListener("abort", onAbort);
    const settle = (outcome: () => void) => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", onAbort);
      outcome();
    };
    if (signal?.aborted) onAbort();
    promise.then(
      (value) => settle(() => resolve(value)),
      (error) => settle(() => reject(redisError(error))),
    );
  });
}

export function cancelled(signal: AbortSignal): KvatlasError {
  return new KvatlasError("KVATLAS_DEADLINE_EXCEEDED", "The call was cancelled before Redis answered.", { cause: signal.reason });
}

/** True once a client is ready; false when it ends, the time is over or the signal fires first. */
export function whenReady(
  client: { on(event: string, listener: () => void): unknown; off(event: string, listener: () => void): unknown },
  timeoutMs: number,
  signal?: AbortSignal,
): Promise<boolean> {
  return new Promise((resolve) => {
    const settle = (isReady: boolean) => {
      clearTimeout(timer);
      client.off("ready", onReady);
      client.off("end", onEnd);
      signal?.removeEventListener("abort", onEnd);
      resolve(isReady);
    };
    const onReady = () => settle(true);
    const onEnd = () => settle(false);
    const timer = setTimeout(onEnd, timeoutMs);
    client.on("ready", onReady);
    client.on("end", onEnd);
    signal?.addEventListener("abort", onEnd);
  });
}
