import { describe, expect, it } from "vitest";
import { generateTrace, traceShapes } from "../bench/fleet-model/generated-trace.ts";
import { type LadderOptions, ladderWorkload } from "../bench/fleet-model/ladder-workload.ts";
import { multiroundWorkload, publishedMultiround } from "../bench/fleet-model/multiround-workload.ts";
import type { FleetOutcome } from "../bench/fleet-model/outcome.ts";
import { type PolicyName, policies } from "../bench/fleet-model/policy-table.ts";
import { type FleetOptions, KeyCache, runFleet } from "../bench/fleet-model/run-fleet.ts";
import { idealHitPercent, traceWorkload } from "../bench/fleet-model/trace-workload.ts";
import type { ModelRequest, Workload } from "../bench/fleet-model/workload.ts";

/*
 * Outcomes of the production decider on small versions of the benches' workloads. Time is the model's, so every run gives the same figures on any machine.
 */

function compare(workload: Workload, options: FleetOptions): (policy: PolicyName, more?: Partial<FleetOptions>) => Promise<FleetOutcome> {
  const keyCache = new KeyCache();
  return (policy, more = {}) => runFleet(workload, { keyCache, ...options, ...policies[policy], ...more });
}

/** A ladder whose prefixes nearly fill the caches of the fleet: 24 groups of 6,000 tokens over 4 replicas of 56,000. */
const nearlyFull: LadderOptions = {
  groups: 24,
  promptsPerGroup: 3,
  prefixTokens: 6_000,
  questionTokens: 400,
  outputTokens: 40,
  warmUp: [4, 20],
  stages: [[6, 40]],
};

function everyFifthPastTheRouters(request: ModelRequest, place: number): ModelRequest {
  return place % 5 === 0 ? { ...request, bypassesRouters: true } : request;
}

describe("a working set that nearly fills the fleet", () => {
  const nearlyFullLadder = ladderWorkload(nearlyFull);
  const fleet = { replicas: 4, capacityTokens: 56_000 };
  const run = compare(nearlyFullLadder, fleet);

  it("does not thrash under the default policy, as it does without knowledge of caches", async () => {
    const ours = await run("default");
    const roundRobin = await run("round-robin");
    expect(ours.modes).toEqual({ precise: ours.requests });
    expect(ours.hitPercent).toBeGreaterThan(75);
    expect(roundRobin.hitPercent).toBeLessThan(45);
    expect(ours.ttftMeanS).toBeLessThan(roundRobin.ttftMeanS / 2);
    expect(ours.ttftP90S).toBeLessThan(roundRobin.ttftP90S / 2);
  });

  it("knows what replicas hold although traffic comes past the routers and a replica restarts", async () => {
    const detour = {
      ...nearlyFullLadder,
      phases: nearlyFullLadder.phases.map((phase) => ({ ...phase, requests: phase.requests.map(everyFifthPastTheRouters) })),
    };
    const ours = await compare(detour, fleet)("default", { incidents: [{ atMs: 30_000, what: "restart-replica", which: 1 }] });
    expect(ours.mispredictedPercent).toBeLessThan(3);
    expect(ours.hitPercent).toBeGreaterThan(50);
  });
});

it("a working set that no longer fits: what queues will compute counts as held, so knowledge of caches is no worse than a history", async () => {
  // 24 groups of 6,000 tokens over 2 replicas of 40,000.
  const workload = ladderWorkload({ ...nearlyFull, outputTokens: 100, warmUp: [4, 15], stages: [[4, 60]] });
  const run = compare(workload, { replicas: 2, capacityTokens: 40_000 });
  const ours = await run("default");
  const estimated = await run("estimated");
  const blind = await run("default", { router: { speculationMs: 0 } });
  expect(ours.queueMean).toBeGreaterThan(5);
  expect(ours.hitPercent).toBeGreaterThan(blind.hitPercent + 5);
  expect(ours.ttftMeanS).toBeLessThan(0.9 * blind.ttftMeanS);
  expect(ours.ttftMeanS).toBeLessThanOrEqual(1.03 * estimated.ttftMeanS);
});

describe("a generated trace of chats", () => {
  const lines = generateTrace({ ...traceShapes.conversation, requests: 400, spanS: 400, gapS: { median: 20, sigma: 0.9 } }, 3);
  const run = compare(traceWorkload("chats", lines, 1), { replicas: 4, capacityTokens: 1_000_000 });

  it("is answered sooner under the default policy than under any other", async () => {
    const ours = await run("default");
    expect(ours.hitPercent).toBeGreaterThan(0.85 * idealHitPercent(lines));
    for (const other of ["weighted", "least-request", "round-robin"] as const) {
      const theirs = await run(other);
      expect(ours.ttftMeanS).toBeLessThanOrEqual(1.03 * theirs.ttftMeanS);
      expect(ours.ttftP90S).toBeLessThanOrEqual(1.03 * theirs.ttftP90S);
    }
  });

  it("hits as often with eight routers as with one, and a router that comes up anew is not blind", async () => {
    const one = await run("default");
    const eight = await run("default", { routers: 8, incidents: [{ atMs: 150_000, what: "restart-router", which: 2 }] });
    expect(Math.abs(one.hitPercent - eight.hitPercent)).toBeLessThan(1.5);
    expect(eight.blindAfterRestart).toBe(0);
  });
});

describe("conversations of several rounds", () => {
  it("get their first token sooner than with least-request", async () => {
    const run = compare(multiroundWorkload(publishedMultiround), { replicas: 4, capacityTokens: 200_000 });
    const ours = await run("default");
    const leastRequest = await run("least-request");
    expect(ours.ttftMeanS).toBeLessThan(0.75 * leastRequest.ttftMeanS);
  });
});

it("gives the same figures again", async () => {
  const lines = generateTrace({ ...traceShapes.synthetic, requests: 60, spanS: 60 }, 5);
  const run = compare(traceWorkload("again", lines, 1), { replicas: 2, capacityTokens: 300_000 });
  expect(await run("default")).toEqual(await run("default"));
  expect(generateTrace(traceShapes.synthetic, 9)).toEqual(generateTrace(traceShapes.synthetic, 9));
});
