import type { Clock } from "@kvatlas/shared/clock";

export interface RetryBudgetOptions {
  /** Retries per request in the long run. */
  readonly ratio: number;
  /** Retries per second that are allowed besides. */
  readonly minPerSecond: number;
}

/** How long unused retries are kept. */
const windowSeconds = 10;

/**
 * Keeps retries in proportion: when a whole fleet is in trouble, every further attempt would only add to it. A bucket that each request and each
 * second fill a little, and each retry empties by one.
 */
export class RetryBudget {
  readonly #options: RetryBudgetOptions;
  readonly #clock: Clock;
  /** Requests fill it up to this; so many come from a busy second. */
  readonly #capacity: number;
  #tokens: number;
  #at: number;

  constructor(options: RetryBudgetOptions, clock: Clock) {
    this.#options = options;
    this.#clock = clock;
    this.#capacity = Math.max(options.ratio > 0 ? 1 : 0, options.minPerSecond * windowSeconds, options.ratio * 100);
    this.#tokens = Math.min(this.#capacity, options.minPerSecond * windowSeconds);
    this.#at = clock.monotonic();
  }

  /** A request begins. */
  deposit(): void {
    this.#tokens = Math.min(this.#capacity, this.#tokens + this.#options.ratio);
  }

  /** A retry is wanted; false when there is none left. */
  take(): boolean {
    const now = this.#clock.monotonic();
    this.#tokens = Math.min(this.#capacity, this.#tokens + ((now - this.#at) / 1_000) * this.#options.minPerSecond);
    this.#at = now;
    if (this.#tokens < 1) return false;
    this.#tokens -= 1;
    return true;
  }
}
