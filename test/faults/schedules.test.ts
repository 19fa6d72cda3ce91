import { readFile, rm } from "node:fs/promises";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { type Arrangement, kindsIn, plainArrangement } from "./arrangement.ts";
import { FaultRig, type FaultRigOptions } from "./fault-rig.ts";
import { type Schedule, scheduleOf } from "./fault-schedule.ts";
import { runSchedule } from "./run-schedule.ts";

/* A few of the schedules of `npm run faults`: some of every sort, in every arrangement, and those that once went wrong. */

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

/** Owners die, go and come, and a link breaks, each while batches are on their way. */
const comings: Schedule = {
  seed: 2,
  faults: [
    { kind: "ingester-join", atMs: 0, durationMs: 2_000, target: 0, amount: 0 },
    { kind: "ingester-kill", atMs: 300, durationMs: 400, target: 1, amount: 0 },
    { kind: "events-cut", atMs: 500, durationMs: 200, target: 2, amount: 0 },
    { kind: "batches-lost", atMs: 700, durationMs: 0, target: 1, amount: 2 },
    { kind: "ingester-leave", atMs: 900, durationMs: 200, target: 2, amount: 0 },
  ],
  loadMs: 1_800,
  requestsPerSecond: 40,
};

async function withRig(options: FaultRigOptions, use: (rig: FaultRig) => Promise<void>): Promise<void> {
  const rig = await FaultRig.start(options);
  try {
    await use(rig);
  } finally {
    await rig.close();
  }
}

async function expectRight(rig: FaultRig, schedule: Schedule): Promise<void> {
  const { verdict } = await runSchedule(rig, schedule);
  expect({ seed: schedule.seed, lost: verdict.lost, phantom: verdict.phantom, unexplained: verdict.unexplained }).toEqual({
    seed: schedule.seed,
    lost: [],
    phantom: [],
    unexplained: [],
  });
}

/** Redis comes back with what it had a moment before, while blocks are stored and removed and replays break off. */
const rollback: Schedule = {
  seed: 3,
  faults: [
    { kind: "redis-rollback", atMs: 400, durationMs: 300, target: 0, amount: 0 },
    { kind: "replay-cut", atMs: 600, durationMs: 400, target: 1, amount: 0 },
    { kind: "redis-rollback", atMs: 1_300, durationMs: 300, target: 0, amount: 0 },
  ],
  loadMs: 1_800,
  requestsPerSecond: 60,
};

describe("after a schedule of faults the index is what the replicas hold", () => {
  let rig: FaultRig | null = null;

  beforeAll(async () => {
    rig = await FaultRig.start({ replicas: 8, ingesters: 3 });
  });

  afterAll(async () => {
    await rig?.close();
  });

  it.each([
    { seed: 2, what: "the last batches before a pause were dropped, and a replay ended half-way" },
    { seed: 1024, what: "an engine restarted, and its first batches, which were its last, were dropped" },
    { seed: 1034, what: "Redis restarted while no replay came to its end" },
    { seed: 4, what: "an ingester killed, replays that hang, a slow Redis, a slow subscriber" },
    { seed: 5, what: "Redis came back empty while replays stood still" },
    { seed: 16, what: "engines killed, a slow link, an ingester stopped for longer than its lease" },
  ])("$seed: $what", async ({ seed }) => {
    if (rig === null) throw new Error("the processes have not started");
    await expectRight(rig, scheduleOf(seed));
  });
});

describe("in every arrangement the index is what the replicas hold after schedules of faults", () => {
  const arrangements: readonly Partial<Arrangement>[] = [
    { publishers: "bind", housekeeping: "fast", queues: "64KiB", onGap: "keep", engine: "0.33" },
    { keys: "content", ranks: "2", host: "offload", housekeeping: "truth", buffers: "400,12", engine: "0.11" },
  ];
  it.each(arrangements.map((differing) => ({ ...plainArrangement, ...differing })))(
    "$publishers, $keys keys, $onGap, housekeeping $housekeeping",
    async (arrangement) => {
      expect(kindsIn("single", arrangement)).toEqual(expect.arrayContaining(comings.faults.map(({ kind }) => kind)));
      await withRig({ replicas: 4, ingesters: 2, arrangement }, async (rig) => {
        await expectRight(rig, comings);
        await expectRight(rig, rollback);
      });
    },
  );
});

describe("after a failover of Redis the index is what the replicas hold", () => {
  it.each(["sentinel", "cluster"] as const)("%s: a primary dies with what only it has", async (topology) => {
    await withRig({ replicas: 4, ingesters: 2, topology }, (rig) => expectRight(rig, failover));
  });
});

describe("a rig that cannot start", () => {
  it("leaves nothing behind, and says where to look", async () => {
    const before = process.listenerCount("exit");
    const unknown = { ...plainArrangement, engine: "0.9" } as unknown as Arrangement;
    const error: unknown = await FaultRig.start({ replicas: 2, ingesters: 1, arrangement: unknown }).catch((reason: unknown) => reason);
    const folder = /have not started, see (\S+)/.exec(String(error))?.[1] ?? "";
    // Whichever ended first, before it took the other one along.
    const logs = await Promise.all(["engines-0.log", "engines-1.log"].map((name) => readFile(join(folder, name), "utf8")));
    expect(logs.join("")).toContain("0.9");
    await rm(folder, { recursive: true });
    expect(process.listenerCount("exit")).toBe(before);
  });
});
