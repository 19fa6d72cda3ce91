import { monitorEventLoopDelay } from "node:perf_hooks";
import { setTimeout as sleep } from "node:timers/promises";
import type { EndpointId } from "@kvatlas/shared/types";
import { eventually } from "../support/eventually.ts";
import type { Replica } from "./engine-fleet.ts";
import type { FaultRig } from "./fault-rig.ts";
import type { Schedule } from "./fault-schedule.ts";
import { type Copies, differences, type EndpointTruth, judge, provenBy, truthsOf, type Verdict } from "./index-truth.ts";
import type { GapKind } from "./lost-gaps.ts";
import { nudge, startLoad } from "./request-load.ts";

/** How long an index may take to be right again once everything runs and nobody sends requests. */
export const quietMs = 10_000;
/** What is not right by then is looked at for so long: an index that comes late is another failure than one that stays wrong. */
const patienceMs = 20_000;
const pollMs = 50;
/** Engines that were slept, killed or hung end their requests within this time. */
const settleMs = 20_000;

export interface ScheduleResult {
  /** When the index was right, or at the end of all patience. */
  readonly verdict: Verdict;
  /** Nothing lost, nothing that is not held, and in time. */
  readonly isRight: boolean;
  /** Right, but not within `quietMs`. */
  readonly isLate: boolean;
  /** From the moment everything ran again, and the engines were idle, to the moment the index was right, or was looked at last. */
  readonly catchUpMs: number;
  readonly requests: number;
  readonly failedRequests: number;
  /** Longest time for which this process, which has little to do, was kept from running: how busy the machine was. */
  readonly heldUpMs: number;
}

/** Runs the load and the faults, puts everything in order again and waits for the index to be right. */
export async function runSchedule(rig: FaultRig, schedule: Schedule): Promise<ScheduleResult> {
  const heldUp = monitorEventLoopDelay({ resolution: 10 });
  heldUp.enable();
  const load = startLoad(rig.engines, schedule.seed, schedule.requestsPerSecond);
  const startedAt = performance.now();
  const at = (ms: number): Promise<void> => sleep(Math.max(0, ms - (performance.now() - startedAt)));
  const faults = schedule.faults.map(async (fault) => {
    await at(fault.atMs);
    await attempt(() => rig.begin(fault));
    await at(fault.atMs + fault.durationMs);
    await attempt(() => rig.end(fault));
  });
  await at(schedule.loadMs);
  load.stop();
  await Promise.all(faults);
  await rig.heal();
  await load.drained();
  const after = await afterQuiet(rig);
  const inTime = after.catchUpMs <= quietMs;
  const isSound = isRight(after.verdict);
  heldUp.disable();
  return {
    ...after,
    isRight: isSound && inTime,
    isLate: isSound && !inTime,
    requests: load.sent,
    failedRequests: load.failed,
    heldUpMs: Math.round(heldUp.max / 1e6),
  };
}

/** Lets the engines, which nobody sends requests any more, come to rest, and waits for the index to be what they hold. */
export async function afterQuiet(rig: FaultRig): Promise<{ readonly verdict: Verdict; readonly catchUpMs: number }> {
  await rig.announce();
  const { truths, quietSince } = await settledTruths(rig);
  return becomesRight(rig, truths, quietSince);
}

/** A fault that meets something broken by another one has no effect. */
async function attempt(action: () => Promise<void>): Promise<void> {
  try {
    await action();
  } catch {
    // The comparison at the end is what counts.
  }
}

/** What the replicas hold when they are idle and have published everything. */
async function settledTruths(rig: FaultRig): Promise<{ readonly truths: readonly EndpointTruth[]; readonly quietSince: number }> {
  const robbed = new Set(rig.takeRobbed());
  let quietSince = performance.now();
  const dumpsOf = async (replica: Replica) => {
    const dumps = await rig.engines.dumps(replica);
    const isRobbed = robbed.delete(replica);
    // A cleared cache is announced by the next step only, and a batch that vanished shows by the next one.
    const owing = isRobbed
      ? rig.engines.endpointsOf(replica)
      : [...new Set(dumps.flatMap(({ endpoint, unpublished }) => (unpublished > 0 ? [endpoint] : [])))];
    if (owing.length === 0) return dumps;
    await Promise.all(owing.map((endpoint) => nudge(rig.engines, endpoint)));
    quietSince = performance.now();
    throw new Error(`${owing.join(", ")} have not published everything yet`);
  };
  const dumps = await eventually(() => Promise.all(rig.engines.replicas.map(dumpsOf)), settleMs);
  return { truths: truthsOf(dumps.flat(), rig.engines.names), quietSince };
}

/** Looks until nothing is wrong, or until time is up. */
async function becomesRight(
  rig: FaultRig,
  truths: readonly EndpointTruth[],
  quietSince: number,
): Promise<{ verdict: Verdict; catchUpMs: number }> {
  const proofs = new Map<EndpointId, Copies>();
  for (;;) {
    const verdict = await look(rig, truths, proofs);
    const elapsedMs = Math.round(performance.now() - quietSince);
    if (isRight(verdict) || elapsedMs > quietMs + patienceMs) return { verdict, catchUpMs: elapsedMs };
    await sleep(pollMs);
  }
}

/** @param proofs what the replay buffers prove; read once for each endpoint that is not fully known, because nothing is published meanwhile */
async function look(rig: FaultRig, truths: readonly EndpointTruth[], proofs: Map<EndpointId, Copies>): Promise<Verdict> {
  // After a failover the connection of this process has to find the new primaries as well.
  const content = await eventually(() => rig.content(), quietMs);
  const mayKeep = rig.arrangement.onGap === "keep" ? await rig.lostGaps.unsettled() : new Map<EndpointId, GapKind>();
  for (const truth of truths) {
    const { endpoint } = truth;
    if (differences(truth, content).length === 0) rig.lostGaps.settle(endpoint);
    else if (!proofs.has(endpoint))
      proofs.set(endpoint, provenBy(await rig.engines.buffered(endpoint), truth.nextSequence, rig.engines.names));
  }
  return judge(truths, content, proofs, mayKeep);
}

function isRight({ lost, phantom, unexplained }: Verdict): boolean {
  return lost.length === 0 && phantom.length === 0 && unexplained.length === 0;
}
