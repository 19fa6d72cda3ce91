import type { Clock } from "@kvatlas/shared/clock";
import { describe, expect, it } from "vitest";
import { LoadReader } from "./load-reader.ts";

describe("LoadReader", () => {
  it("gives its last reading as long as it is young enough and of the same routers", async () => {
    let now = 1_000;
    const clock: Clock = { now: () => now, monotonic: () => now };
    const loads = new LoadReader({ readLoad: async () => ({ loads: new Map(), inflight: new Map() }) }, clock);
    expect(loads.recent(["a"], 5)).toBeNull();
    const reading = await loads.read(["a"]);
    now += 5;
    expect(loads.recent(["a"], 5)).toBe(reading);
    expect(loads.recent(["a", "b"], 5)).toBeNull();
    now += 1;
    expect(loads.recent(["a"], 5)).toBeNull();
  });

  it("counts the age of a reading from when it began", async () => {
    let now = 1_000;
    const clock: Clock = { now: () => now, monotonic: () => now };
    let answer: () => void = () => {};
    const answered = new Promise<void>((resolve) => {
      answer = resolve;
    });
    const loads = new LoadReader({ readLoad: () => answered.then(() => ({ loads: new Map(), inflight: new Map() })) }, clock);
    const reading = loads.read(["a"]);
    now += 6;
    answer();
    await reading;
    expect(loads.recent(["a"], 5)).toBeNull();
  });
});
