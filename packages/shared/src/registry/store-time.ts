import type { Clock } from "../clock.ts";

/** An answer of the store may come this much before the millisecond that it names is over, on either side. */
const ROUNDING_MS = 1;
/** The difference is measured again after this long. */
const FRESH_MS = 5_000;
/** A wall clock that has moved against the monotonic one by this much has been set. */
const SET_MS = 100;

/**
 * The time of the store, as far as a process can know it: what several machines write and compare is told in it, so that the clock of one of them
 * being wrong makes nobody look dead, or alive.
 */
export class StoreTime {
  readonly #clock: Clock;
  #skewMs = 0;
  #measured: { readonly atMs: number; readonly wallMs: number } | null = null;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** The difference has been measured, however long ago. */
  get isKnown(): boolean {
    return this.#measured !== null;
  }

  /** It has been measured lately. */
  get isFresh(): boolean {
    return this.#measured !== null && this.#clock.monotonic() - this.#measured.atMs <= FRESH_MS;
  }

  /**
   * Learns from one question: between being sent and being answered the store said what time it is. Of the differences that are possible then the
   * one nearest to what was known is taken, so that slow answers change nothing and equal clocks stay equal.
   *
   * @param ask gives the store's time in ms since the epoch, null when it did not say
   */
  async measure(ask: () => Promise<number | null>): Promise<void> {
    const sent = this.#read();
    const storeMs = await ask();
    if (storeMs === null) return;
    const answered = this.#read();
    // By the monotonic clock: the other one may be set meanwhile.
    const sentAtWall = answered.wall - (answered.monotonic - sent.monotonic);
    const [least, most] = [storeMs - answered.wall - ROUNDING_MS, storeMs - sentAtWall + ROUNDING_MS];
    this.#skewMs = Math.round(Math.min(most, Math.max(least, this.#skew())));
    this.#measured = { atMs: answered.monotonic, wallMs: answered.wall };
  }

  /** A time of this process, in ms since the epoch by its own clock, as the store has it. */
  toStore(ownMs: number): number {
    return ownMs + this.#skew();
  }

  /** A time of the store as this process has it. */
  toOwn(storeMs: number): number {
    return storeMs - this.#skew();
  }

  /** As measured; where this clock has been set since, by that much less. */
  #skew(): number {
    if (this.#measured === null) return this.#skewMs;
    const { monotonic, wall } = this.#read();
    const setByMs = wall - monotonic - (this.#measured.wallMs - this.#measured.atMs);
    return Math.abs(setByMs) < SET_MS ? this.#skewMs : this.#skewMs - Math.round(setByMs);
  }

  #read(): { readonly wall: number; readonly monotonic: number } {
    return { wall: this.#clock.now(), monotonic: this.#clock.monotonic() };
  }
}
