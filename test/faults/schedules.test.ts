import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { FaultRig } from "./fault-rig.ts";
import { scheduleOf } from "./fault-schedule.ts";
import { runSchedule } from "./run-schedule.ts";

/* A few of the schedules of `npm run faults`: some of every sort, and those that once went wrong. */

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
