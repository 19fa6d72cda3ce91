import { FakeClock } from "@kvatlas/shared/clock";
import { describe, expect, it } from "vitest";
import { ProcessStartWatch } from "./process-start-watch.ts";

const watch = (known: number | null) => {
  const clock = new FakeClock();
  return { clock, watch: new ProcessStartWatch(clock, known), now: () => clock.monotonic() };
};

describe("ProcessStartWatch", () => {
  it("sees a changed time once, and nothing in the first one", () => {
    const { watch: first, now } = watch(null);
    expect(first.sees(null, now(), null)).toBe(false);
    expect(first.sees(100, now(), 101)).toBe(false);
    expect(first.sees(100, now(), 101)).toBe(false);
    expect(first.sees(200, now(), null)).toBe(true);
    expect(first.known).toBe(200);
  });

  it("takes the time after a restart that the events have shown for its echo, once and not for ever", () => {
    const { clock, watch: known, now } = watch(100);
    known.restartSeen();
    expect(known.sees(200, now(), 200.5)).toBe(false);
    expect(known.sees(300, now(), null)).toBe(true);
    known.restartSeen();
    clock.advance(200_000);
    expect(known.sees(400, now(), null)).toBe(true);
  });

  it("knows a process that has started after its supposed run's first batch for another one", () => {
    const { watch: known, now } = watch(100);
    known.restartSeen();
    expect(known.sees(200, now(), 199.9)).toBe(true);
    const { watch: unknown } = watch(null);
    expect(unknown.sees(200, now(), 199.9)).toBe(true);
  });
});
