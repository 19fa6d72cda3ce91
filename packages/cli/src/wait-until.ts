import { setTimeout as wait } from "node:timers/promises";
import { KvatlasError } from "@kvatlas/shared/errors";

export interface WaitOptions {
  /** What is waited for, for the message: "the replicas have not ..." reads well. */
  readonly problem: string;
  readonly timeoutMs: number;
  /** @defaultValue 10 */
  readonly intervalMs?: number;
  readonly signal: AbortSignal;
}

/**
 * Asks until there is an answer, i.e. until `read` resolves with anything but null.
 *
 * @throws KVATLAS_DEADLINE_EXCEEDED with `problem`, when there is none in time.
 */
export async function waitUntil<T>(read: () => Promise<T | null> | T | null, options: WaitOptions): Promise<T> {
  const startedAt = performance.now();
  for (;;) {
    options.signal.throwIfAborted();
    const value = await read();
    if (value !== null) return value;
    if (performance.now() - startedAt > options.timeoutMs) {
      throw new KvatlasError("KVATLAS_DEADLINE_EXCEEDED", `${options.problem} within ${options.timeoutMs / 1_000} s.`);
    }
    await wait(options.intervalMs ?? 10, undefined, { signal: options.signal });
  }
}
