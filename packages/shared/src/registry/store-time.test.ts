import { describe, expect, it } from "vitest";
import type { Clock } from "../clock.ts";
import { StoreTime } from "./store-time.ts";

/** A store, and a process whose clock differs from the store's by `skewMs`. */
class Machine implements Clock {
  storeMs = 1_700_000_000_000;
  skewMs: number;
  #elapsedMs = 0;

  constructor(skewMs: number) {
    this.skewMs = skewMs;
  }

  now(): number {
    return Math.floor(this.storeMs + this.skewMs);
  }

  monotonic(): number {
    return this.#elapsedMs;
  }

  pass(ms: number): void {
    this.storeMs += ms;
    this.#elapsedMs += ms;
  }

  /** The store's answer to a question that takes `there` ms to it and `back` ms to return. */
  ask(there: number, back: number): () => Promise<number> {
    return async () => {
      this.pass(there);
      const said = Math.floor(this.storeMs);
      this.pass(back);
      return said;
    };
  }
}

describe("StoreTime", () => {
  it.each([-3_600_000, -20, 20, 3_600_000])(
    "finds out that its own clock is off by %i ms, as exactly as answers are quick",
    async (skewMs) => {
      const machine = new Machine(skewMs);
      const time = new StoreTime(machine);
      await time.measure(machine.ask(2, 3));
      expect(Math.abs(time.toStore(machine.now()) - machine.storeMs)).toBeLessThanOrEqual(7);
      expect(time.toOwn(time.toStore(4_711))).toBe(4_711);
    },
  );

  it("leaves equal clocks equal, however slow and lopsided the answers", async () => {
    const machine = new Machine(0);
    const time = new StoreTime(machine);
    for (const [there, back] of [
      [0, 0],
      [0.2, 700],
      [4_000, 0.1],
      [0.7, 0.9],
    ]) {
      await time.measure(machine.ask(there ?? 0, back ?? 0));
      expect(time.toStore(5)).toBe(5);
    }
  });

  it("is to be measured again after a while, and where the store did not say", async () => {
    const machine = new Machine(50);
    const time = new StoreTime(machine);
    expect(time.isFresh).toBe(false);
    await time.measure(async () => null);
    expect([time.isFresh, time.isKnown]).toEqual([false, false]);
    await time.measure(machine.ask(1, 1));
    expect(time.isFresh).toBe(true);
    machine.pass(4_000);
    expect(time.isFresh).toBe(true);
    machine.pass(2_000);
    expect([time.isFresh, time.isKnown]).toEqual([false, true]);
    await time.measure(machine.ask(1, 1));
    expect(time.isFresh).toBe(true);
  });

  it("goes on being right when its own clock is set", async () => {
    const machine = new Machine(50);
    const time = new StoreTime(machine);
    await time.measure(machine.ask(1, 1));
    for (const skewMs of [-60_000, 3_600_000, 0]) {
      machine.skewMs = skewMs;
      expect(Math.abs(time.toStore(machine.now()) - machine.storeMs)).toBeLessThanOrEqual(4);
      machine.pass(1_000);
      await time.measure(machine.ask(1, 1));
      expect(Math.abs(time.toStore(machine.now()) - machine.storeMs)).toBeLessThanOrEqual(4);
    }
  });
});
