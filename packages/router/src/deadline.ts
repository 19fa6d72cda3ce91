import { KvatlasError } from "@kvatlas/shared/errors";

/**
 * Runs a task that has to answer within `timeoutMs`; the signal it may ask for (before its first await) aborts when it has not.
 * The time-out is declared only after one more turn of the event loop, so that an answer which is already in the socket counts
 * even when the process was busy.
 *
 * @throws KVATLAS_DEADLINE_EXCEEDED
 */
export function within<T>(timeoutMs: number, what: string, task: (signal: () => AbortSignal) => Promise<T>): Promise<T> {
  return new Promise<T>((resolve, reject) => {
    let controller: AbortController | null = null;
    let settled = false;
    const timer = setTimeout(() => {
      setImmediate(() => {
        if (settled) return;
        settled = true;
        const error = new KvatlasError("KVATLAS_DEADLINE_EXCEEDED", `${what} took longer than ${timeoutMs} ms.`);
        reject(error);
        controller?.abort(error);
      });
    }, timeoutMs);
    const settle = (act: () => void) => {
      if (settled) return;
      settled = true;
      clearTimeout(timer);
      act();
    };
    const signalOf = () => {
      controller ??= new AbortController();
      return controller.signal;
    };
    task(signalOf).then(
      (value) => settle(() => resolve(value)),
      (error: unknown) => settle(() => reject(error)),
    );
  });
}
