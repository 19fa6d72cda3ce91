import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { FaultRig } from "./fault-rig.ts";
import { type Schedule, scheduleOf } from "./fault-schedule.ts";
import { runSchedule } from "./run-schedule.ts";

/* A few of the schedules of `npm run faults`: some of every sort, and those that once went wrong. */

/** A primary dies under load with acknowledged writes that no replica has, and so does an ingester. */
const failover: Schedule = {
  seed: 1,
  faults: [
    { kind: "redis-failover", atMs: 300, durationMs: 300, target: 0, amount: 0 },
    { kind: "ingester-kill", atMs: 700, durationMs: 300, target: 1, amount: 0 },
  ],
  loadMs: 1_500,
  requestsPerSecond: 40,
};

let rig: FaultRig | null = null;

beforeAll(async () => {
  rig = await FaultRig.start({ replicas: 8, ingesters: 3 });
});

afterAll(async () => {
  await rig?.close();
});

describe("after a schedule of faults the index is what the replicas hold", () => {
  it.each([
    { seed: 2, what: "the last batches before a pause were dropped, and a replay ended half-way" },
    { seed: 1024, what: "an engine restarted, and its first batches, which were its last, were dropped" },
    { seed: 1034, what: "Redis restarted while no replay came to its end" },
    { seed: 4, what: "an ingester killed, replays that hang, a slow Redis, a slow subscriber" },
    { seed: 5, what: "Redis came back empty while replays stood still" },
    { seed: 16, what: "engines killed, a slow link, an ingester stopped for longer than its lease" },
  ])("$seed: $what", async ({ seed }) => {
    if (rig === null) throw new Error("the processes have not started");
    const { verdict } = await runSchedule(rig, scheduleOf(seed));
    expect({ lost: verdict.lost, phantom: verdict.phantom, unexplained: verdict.unexplained }).toEqual({
      lost: [],
      phantom: [],
      unexplained: [],
    });
  });
});

describe("after a failover of Redis the index is what the replicas hold", () => {
  it.each(["sentinel", "cluster"] as const)("%s: a primary dies with what only it has", async (topology) => {
    const replicated = await FaultRig.start({ replicas: 4, ingesters: 2, topology });
    try {
      const { verdict } = await runSchedule(replicated, failover);
      expect({ lost: verdict.lost, phantom: verdict.phantom, unexplained: verdict.unexplained }).toEqual({
        lost: [],
        phantom: [],
        unexplained: [],
      });
    } finally {
      await replicated.close();
    }
  });
});
