import type { Clock } from "@kvatlas/shared/clock";
import type { GivenUp } from "./request-work.ts";

export interface LookupGateOptions {
  /** Failures in a row after which lookups rest. @defaultValue 3 */
  readonly failures?: number;
  /** First rest; doubles with each trial that fails. @defaultValue 250 */
  readonly restMs?: number;
  /** @defaultValue 4000 */
  readonly maxRestMs?: number;
}

/**
 * Spares requests the wait for a store that does not answer: after some failures in a row lookups rest for a while; then one request tries for all. One
 * success opens the gate, and it takes the same number of failures again to shut it, so that a store that now answers and now does not makes no
 * difference with every request.
 */
export class LookupGate {
  readonly #clock: Clock;
  readonly #failures: number;
  readonly #restMs: number;
  readonly #maxRestMs: number;
  #inARow = 0;
  #rests = 0;
  #restUntil = 0;
  #last: GivenUp | null = null;

  constructor(clock: Clock, options: LookupGateOptions = {}) {
    this.#clock = clock;
    this.#failures = options.failures ?? 3;
    this.#restMs = options.restMs ?? 250;
    this.#maxRestMs = options.maxRestMs ?? 4_000;
  }

  /** Why not to look up now; null: do, and say how it went. */
  shut(): GivenUp | null {
    if (this.#inARow < this.#failures) return null;
    const now = this.#clock.monotonic();
    if (now < this.#restUntil) return this.#last === null ? null : { reason: this.#last.reason };
    // This one tries; the others rest on until it has an answer.
    this.#rest(now);
    return null;
  }

  succeeded(): void {
    this.#inARow = 0;
    this.#rests = 0;
  }

  failed(why: GivenUp): void {
    this.#inARow += 1;
    this.#last = why;
    if (this.#inARow === this.#failures) this.#rest(this.#clock.monotonic());
  }

  #rest(now: number): void {
    this.#restUntil = now + Math.min(this.#maxRestMs, this.#restMs * 2 ** Math.min(this.#rests, 20));
    this.#rests += 1;
  }
}
