/** Time as a dependency: components that wait or measure take a Clock. */
export interface Clock {
  /** Wall-clock milliseconds since the epoch; for values that leave the process. */
  now(): number;
  /** Monotonic milliseconds with fractions; for durations. */
  monotonic(): number;
}

export const systemClock: Clock = {
  now: () => Date.now(),
  monotonic: () => performance.now(),
};

/** Waiting as a dependency, for components that run in a model's time as well. */
export interface Timers {
  /** Runs something once, that much later; returns what prevents it. */
  after(delayMs: number, run: () => void): () => void;
}

export const systemTimers: Timers = {
  after: (delayMs, run) => {
    const timer = setTimeout(run, delayMs);
    return () => clearTimeout(timer);
  },
};

/** A clock that tests move by hand. */
export class FakeClock implements Clock {
  #nowMs: number;

  constructor(startMs = 1_700_000_000_000) {
    this.#nowMs = startMs;
  }

  now(): number {
    return this.#nowMs;
  }

  monotonic(): number {
    return this.#nowMs;
  }

  advance(ms: number): void {
    this.#nowMs += ms;
  }
}
