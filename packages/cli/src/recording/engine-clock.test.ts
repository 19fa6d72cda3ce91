import { describe, expect, it } from "vitest";
import { createEngineClock } from "./engine-clock.ts";

describe("createEngineClock", () => {
  it("places a late batch by its own stamp", () => {
    const clock = createEngineClock([
      { engineMs: 1_000, receivedMs: 51 },
      { engineMs: 2_000, receivedMs: 1_700 },
      { engineMs: 3_000, receivedMs: 2_050 },
    ]);
    expect(clock?.(2_000)).toBe(1_050);
  });

  it("follows clocks that drift apart", () => {
    const samples = Array.from({ length: 1_000 }, (_, i) => ({ engineMs: i * 1_000, receivedMs: i * 1_001 + (i % 3) * 40 }));
    const clock = createEngineClock(samples);
    for (const at of [0, 500_000, 999_000]) expect(Math.abs((clock?.(at) ?? 0) - (at * 1_001) / 1_000)).toBeLessThan(40);
  });

  it("knows nothing without samples", () => {
    expect(createEngineClock([])).toBeNull();
  });
});
