/** Time over which departures are averaged. */
const memoryMs = 10_000;

/** How many requests end per millisecond, of late. */
export class DepartureRate {
  #count = 0;
  #at = 0;
  #since: number | null = null;

  departed(nowMs: number): void {
    this.#since ??= nowMs;
    this.#count = this.#decayed(nowMs) + 1;
    this.#at = nowMs;
  }

  /** 0 while none has been seen. */
  perMs(nowMs: number): number {
    if (this.#since === null) return 0;
    // Soon after the first departure there has not been the time for more of them.
    const seen = Math.max(1, memoryMs * (1 - Math.exp(-(nowMs - this.#since) / memoryMs)));
    return this.#decayed(nowMs) / seen;
  }

  #decayed(nowMs: number): number {
    return this.#count * Math.exp(-(nowMs - this.#at) / memoryMs);
  }
}
