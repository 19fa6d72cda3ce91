import type { Clock } from "./clock.ts";
import { meaningOf, type RedisErrorCode } from "./redis-error.ts";

/** Whoever meets one of these meets it again within this time, while it lasts. */
const RECENT_MS = 5_000;

/** What Redis has refused lately, in words for an operator: answers that do not pass by repeating the call. */
export class RedisTroubles {
  readonly #clock: Clock;
  readonly #seenAt = new Map<RedisErrorCode, number>();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  see(code: RedisErrorCode): void {
    if (meaningOf(code) !== null) this.#seenAt.set(code, this.#clock.monotonic());
  }

  /** A sentence each; empty while all is well. */
  sentences(): readonly string[] {
    const since = this.#clock.monotonic() - RECENT_MS;
    return [...this.#seenAt].flatMap(([code, at]) => (at < since ? [] : [`${meaningOf(code)} (${code})`])).sort();
  }
}
