import type { Component } from "@kvatlas/shared/lifecycle";
import type { Logger } from "@kvatlas/shared/logger";
import { orAborted } from "./pipeline/store-retry.ts";

export interface OnNewsOptions {
  /** At the latest, news or not. */
  readonly intervalMs: number;
  /** Tells of news, best effort; returns the way to stop. */
  readonly subscribe: (listener: () => void) => () => void;
  readonly logger: Logger;
}

/** Runs a job at the start, whenever there is news, and at intervals. Runs never overlap; a failed one is logged and tried again. `close` waits for no store. */
export function onNews(name: string, job: () => Promise<unknown>, options: OnNewsOptions): Component {
  const abort = new AbortController();
  let timer: NodeJS.Timeout | null = null;
  let running: Promise<void> | null = null;
  let hasNews = false;
  let unsubscribe = (): void => {};

  function run(): void {
    hasNews = running !== null;
    if (running !== null || abort.signal.aborted) return;
    running = orAborted(job(), abort.signal)
      .then(() => {})
      .catch((error: unknown) => {
        if (!abort.signal.aborted) options.logger.warn({ err: error, job: name }, "a job failed; it is tried again");
      })
      .finally(() => {
        running = null;
        if (hasNews) run();
      });
  }

  return {
    name,
    start: async () => {
      unsubscribe = options.subscribe(run);
      timer = setInterval(run, options.intervalMs);
      run();
    },
    close: async () => {
      unsubscribe();
      if (timer !== null) clearInterval(timer);
      abort.abort();
      await running;
    },
  };
}
