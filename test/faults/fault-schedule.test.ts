import { describe, expect, it } from "vitest";
import { faultKinds, kindsOf, scheduleOf } from "./fault-schedule.ts";

describe("scheduleOf", () => {
  it("decides the same for the same seed, and differently for others", () => {
    expect(scheduleOf(7)).toEqual(scheduleOf(7));
    expect(new Set(Array.from({ length: 50 }, (_, seed) => JSON.stringify(scheduleOf(seed).faults))).size).toBe(50);
  });

  it("uses every kind, and only those that are asked for", () => {
    const kinds = new Set(Array.from({ length: 500 }, (_, seed) => scheduleOf(seed).faults.map(({ kind }) => kind)).flat());
    expect([...kinds].sort()).toEqual([...faultKinds].sort());
    const some = scheduleOf(3, ["ingester-kill", "redis-empty"]).faults.map(({ kind }) => kind);
    expect(some.every((kind) => kind === "ingester-kill" || kind === "redis-empty")).toBe(true);
  });

  it("fails primaries over where they have replicas, and only there", () => {
    expect(kindsOf("single")).toEqual(faultKinds);
    for (const topology of ["sentinel", "cluster"] as const) {
      expect(kindsOf(topology)).toContain("redis-failover");
      expect(kindsOf(topology)).not.toContain("redis-empty");
    }
  });

  it("keeps every schedule short", () => {
    for (let seed = 0; seed < 1_000; seed++) {
      const { faults, loadMs } = scheduleOf(seed);
      expect(faults.length).toBeGreaterThan(0);
      expect(Math.max(loadMs, ...faults.map(({ atMs, durationMs }) => atMs + durationMs))).toBeLessThan(7_000);
      expect(loadMs).toBeGreaterThan(0);
    }
  });
});
