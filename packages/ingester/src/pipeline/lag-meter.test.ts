import { describe, expect, it } from "vitest";
import { LagMeter } from "./lag-meter.ts";

describe("LagMeter", () => {
  it("counts from the first look at which what is missing had been received", () => {
    const meter = new LagMeter();
    expect(meter.look(5, 5, 0)).toBe(0);
    expect(meter.look(8, 5, 1_000)).toBe(0);
    expect(meter.look(9, 7, 2_000)).toBe(1_000);
    expect(meter.look(12, 8, 3_000)).toBe(1_000);
    expect(meter.look(12, 12, 4_000)).toBe(0);
  });

  it("does not add up a stream that is always a little behind", () => {
    const meter = new LagMeter();
    for (let beat = 0; beat < 100; beat++) expect(meter.look(beat * 10, beat * 10 - 1, beat * 1_000)).toBe(0);
  });

  it("begins anew with another run of the engine, and keeps counting when its marks are full", () => {
    const meter = new LagMeter();
    expect(meter.look(100, 10, 0)).toBe(0);
    expect(meter.look(3, -1, 500)).toBe(0);
    expect(meter.look(3, -1, 700)).toBe(200);
    for (let i = 0; i < 3_000; i++) meter.look(4 + i, 2, 1_000);
    expect(meter.look(4_000, 2, 9_500)).toBe(9_000);
  });
});
