import { FakeClock } from "@kvatlas/shared/clock";
import { describe, expect, it } from "vitest";
import { TwinWatch } from "./twin-watch.ts";

describe("TwinWatch", () => {
  it("pauses when runs that seemed to have ended go on again and again", () => {
    const clock = new FakeClock();
    const watch = new TwinWatch(clock);
    for (const [live, expected] of [
      [1_000, false],
      [1_001, false],
      [1_002, true],
    ] as const) {
      watch.wentBack(live);
      expect(watch.cameAfter(5, live + 1)).toBe(expected);
    }
    expect([watch.isPaused, watch.isSuspected]).toEqual([true, true]);
    clock.advance(30_000);
    expect([watch.isPaused, watch.isSuspected]).toEqual([false, true]);
    clock.advance(30_001);
    expect(watch.isSuspected).toBe(false);
  });

  it("takes restarts for what they are", () => {
    const clock = new FakeClock();
    const watch = new TwinWatch(clock);
    for (let restart = 0; restart < 10; restart++) {
      watch.wentBack(50);
      expect(watch.cameAfter(-1, 0)).toBe(false);
      expect(watch.cameAfter(0, 7)).toBe(false);
      // In step, past the old number, and far past it.
      expect(watch.cameAfter(50, 51)).toBe(false);
      expect(watch.cameAfter(7, 9_000)).toBe(false);
    }
    expect(watch.isSuspected).toBe(false);
  });

  it("forgets signs that are old", () => {
    const clock = new FakeClock();
    const watch = new TwinWatch(clock);
    for (let i = 0; i < 5; i++) {
      expect(watch.sign()).toBe(false);
      clock.advance(40_000);
    }
  });
});
