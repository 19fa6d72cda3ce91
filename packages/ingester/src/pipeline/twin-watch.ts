import type { Clock } from "@kvatlas/shared/clock";

/** Numbers that go on where a run had stopped, give or take batches lost on the way. */
const maxSkipped = 64;
/** Restarts and lost batches can look like a twin once; hardly so often within `windowMs`. */
const signsNeeded = 3;
const windowMs = 60_000;
const pauseMs = 30_000;

/**
 * Tells when two publishers send under one endpoint's name (a topic or an address used twice): their numbers come mixed, so every other batch
 * looks like a restart. Nothing true can be said about either cache then, so the endpoint is left alone for a while, and tried again after that.
 */
export class TwinWatch {
  readonly #clock: Clock;
  #signs: number[] = [];
  #formerLive = -1;
  #pausedUntil = Number.NEGATIVE_INFINITY;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** Batches are not to be used for now. */
  get isPaused(): boolean {
    return this.#clock.monotonic() < this.#pausedUntil;
  }

  /** There is reason to believe in a twin. */
  get isSuspected(): boolean {
    return this.isPaused || this.#recent().length >= signsNeeded;
  }

  /** The numbers have gone back from `live`. */
  wentBack(live: number): void {
    this.#formerLive = live;
  }

  /** Batch `seq` has come after `live`. True when that shows a twin: the run that seemed to have ended goes on. */
  cameAfter(live: number, seq: number): boolean {
    if (live >= this.#formerLive || seq <= this.#formerLive || seq > this.#formerLive + maxSkipped || seq === live + 1) return false;
    return this.sign();
  }

  /** Something that only a twin explains. True when it is one too many, and the pause begins. */
  sign(): boolean {
    this.#signs = [...this.#recent(), this.#clock.monotonic()];
    if (this.#signs.length < signsNeeded) return false;
    this.#pausedUntil = this.#clock.monotonic() + pauseMs;
    this.#formerLive = -1;
    return true;
  }

  #recent(): number[] {
    const since = this.#clock.monotonic() - windowMs;
    return this.#signs.filter((at) => at >= since);
  }
}
