import type { Clock } from "@kvatlas/shared/clock";

/** A restart that the events have shown is seen by the scraper within this time, when the HTTP server is up again. */
const echoMs = 120_000;

/**
 * Tells from `process_start_time_seconds` whether an engine has restarted. The events often show it first; then the changed time is the
 * echo of a restart that is dealt with already, once. Unless the process has started after batches of what is taken for its run were published: an engine
 * may restart twice between two looks, and number its batches on from where the run between had come.
 */
export class ProcessStartWatch {
  readonly #clock: Clock;
  #known: number | null;
  #echoUntil = Number.NEGATIVE_INFINITY;

  constructor(clock: Clock, known: number | null) {
    this.#clock = clock;
    this.#known = known;
  }

  /** Seconds since the epoch; null until told. */
  get known(): number | null {
    return this.#known;
  }

  /** The events have shown a restart. */
  restartSeen(): void {
    this.#echoUntil = this.#clock.monotonic() + echoMs;
  }

  /**
   * True when `seen`, read by a look that began at `lookedAt` (monotonic ms), shows a restart that nobody has seen yet.
   *
   * @param runSince timestamp of the earliest batch known of the run, by the engine's clock as `seen` is; null when none is
   */
  sees(seen: number | null, lookedAt: number, runSince: number | null): boolean {
    if (seen === null || seen === this.#known) return false;
    const isOfThisRun = runSince === null || seen <= runSince;
    const isEcho = isOfThisRun && (this.#known === null || lookedAt < this.#echoUntil);
    this.#known = seen;
    this.#echoUntil = Number.NEGATIVE_INFINITY;
    return !isEcho;
  }
}
