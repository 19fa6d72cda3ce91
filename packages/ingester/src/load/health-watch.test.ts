import { describe, expect, it } from "vitest";
import { readEngineMetrics } from "./engine-metrics.ts";
import { HealthWatch } from "./health-watch.ts";
import type { ReplicaObservation } from "./load-scraper.ts";

const hungAfterMs = 1_000;

function look(startedAt: number, page: string | null, more: Partial<ReplicaObservation> = {}): ReplicaObservation {
  const metrics = page === null ? null : readEngineMetrics(page);
  return { startedAt, healthy: true, reachable: true, metrics, isSleeping: null, models: null, ...more };
}

const busy = (steps: number): string => `vllm:num_requests_running 2\nvllm:iteration_tokens_total_count ${steps}`;
const idle = "vllm:num_requests_running 0\nvllm:num_requests_waiting 0";

describe("HealthWatch", () => {
  it("calls an engine hung whose numbers stand still while it has requests, until they move", () => {
    const watch = new HealthWatch(0, { hungAfterMs });
    expect(watch.see(look(0, busy(1))).kind).toBe("ok");
    expect(watch.see(look(999, busy(1))).kind).toBe("ok");
    expect(watch.see(look(1_000, busy(1)))).toEqual({ kind: "hung", forMs: 1_000 });
    // Without a page nothing new is known.
    expect(watch.see(look(1_200, null)).kind).toBe("hung");
    expect(watch.see(look(1_500, busy(2))).kind).toBe("ok");
  });

  it("does not call an idle or a sleeping engine hung", () => {
    const watch = new HealthWatch(0, { hungAfterMs });
    for (const at of [0, 5_000, 10_000]) expect(watch.see(look(at, idle)).kind).toBe("ok");
    for (const at of [11_000, 20_000]) expect(watch.see(look(at, busy(1), { isSleeping: true })).kind).toBe("ok");
    expect(watch.see(look(20_900, busy(1))).kind).toBe("ok");
  });

  it("tells a silent server from one that is not well, and since when", () => {
    const watch = new HealthWatch(0, { hungAfterMs });
    expect(watch.see(look(10, null, { healthy: false, reachable: false }))).toEqual({ kind: "unreachable", forMs: 0 });
    expect(watch.see(look(60, null, { healthy: false }))).toEqual({ kind: "unhealthy", forMs: 50 });
    expect(watch.see(look(70, idle)).kind).toBe("ok");
    expect(watch.see(look(80, null, { healthy: false }))).toEqual({ kind: "unhealthy", forMs: 0 });
  });
});
