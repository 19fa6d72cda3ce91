import type { Component } from "@kvatlas/shared/lifecycle";
import type { Logger } from "@kvatlas/shared/logger";
import { orAborted } from "../pipeline/store-retry.ts";

/** Runs a job again and again, `intervalMs` after its last end, so that runs never overlap. A failed run is logged; the next one tries again. `close` waits for no store. */
export function periodically(name: string, job: (signal: AbortSignal) => Promise<unknown>, intervalMs: number, logger: Logger): Component {
  const abort = new AbortController();
  let timer: NodeJS.Timeout | null = null;
  let running: Promise<void> | null = null;
  let closed = false;

  function schedule(): void {
    if (closed) return;
    timer = setTimeout(() => {
      running = orAborted(job(abort.signal), abort.signal)
        .then(() => {})
        .catch((error: unknown) => {
          if (!closed) logger.warn({ err: error, job: name }, "a housekeeping job failed; it is tried again");
        })
        .finally(schedule);
    }, intervalMs);
  }

  return {
    name,
    start: async () => schedule(),
    close: async () => {
      closed = true;
      if (timer !== null) clearTimeout(timer);
      abort.abort();
      await running;
    },
  };
}
