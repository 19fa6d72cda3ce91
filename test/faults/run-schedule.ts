import { setTimeout as sleep } from "node:timers/promises";
import type { ReplicaDump } from "@kvatlas/shared/index/replica-dump";
import type { EndpointId } from "@kvatlas/shared/types";
import { eventually } from "../support/eventually.ts";
import type { Replica } from "./engine-fleet.ts";
import type { FaultRig } from "./fault-rig.ts";
import type { Schedule } from "./fault-schedule.ts";
import { type Copies, differences, judge, provenBy, type Verdict } from "./index-truth.ts";
import { nudge, startLoad } from "./request-load.ts";

/** How long an index may take to be right again once everything runs and nobody sends requests. */
const quietMs = 10_000;
const pollMs = 50;
/** Engines that were slept, killed or hung end their requests within this time. */
const settleMs = 20_000;

export interface ScheduleResult {
  readonly verdict: Verdict;
  readonly isRight: boolean;
  /** From the moment everything ran again, and the engines were idle, to the moment the index was right; `quietMs` when it never was. */
  readonly catchUpMs: number;
  readonly requests: number;
  readonly failedRequests: number;
}

/** Runs the load and the faults, puts everything in order again and waits for the index to be right. */
export async function runSchedule(rig: FaultRig, schedule: Schedule): Promise<ScheduleResult> {
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
  const { verdict, catchUpMs } = await afterQuiet(rig);
  return { verdict, isRight: isRight(verdict), catchUpMs, requests: load.sent, failedRequests: load.failed };
}

/** Lets the engines, which nobody sends requests any more, come to rest, and waits for the index to be what they hold. */
export async function afterQuiet(rig: FaultRig): Promise<{ readonly verdict: Verdict; readonly catchUpMs: number }> {
  return becomesRight(rig, await settledDumps(rig));
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
async function settledDumps(rig: FaultRig): Promise<readonly ReplicaDump[]> {
  const robbed = new Set(rig.takeRobbed());
  return eventually(
    () =>
      Promise.all(
        rig.engines.replicas.map(async (replica) => {
          const dump = await rig.engines.dump(replica);
          // A cleared cache is announced by the next step only, and a batch that vanished shows by the next one.
          if (dump.unpublished > 0 || robbed.delete(replica)) {
            await nudge(rig.engines, replica);
            throw new Error(`${replica.address} has not published everything yet`);
          }
          return dump;
        }),
      ),
    settleMs,
  );
}

/** Looks until nothing is wrong, or until time is up. */
async function becomesRight(rig: FaultRig, dumps: readonly ReplicaDump[]): Promise<{ verdict: Verdict; catchUpMs: number }> {
  const startedAt = performance.now();
  const proofs = new Map<EndpointId, Copies>();
  for (;;) {
    const verdict = await look(rig, dumps, proofs);
    const elapsedMs = performance.now() - startedAt;
    if (isRight(verdict)) return { verdict, catchUpMs: Math.round(elapsedMs) };
    if (elapsedMs > quietMs) return { verdict, catchUpMs: quietMs };
    await sleep(pollMs);
  }
}

/** @param proofs what the replay buffers prove; read once for each replica that is not fully known, because nothing is published meanwhile */
async function look(rig: FaultRig, dumps: readonly ReplicaDump[], proofs: Map<EndpointId, Copies>): Promise<Verdict> {
  // After a failover the connection of this process has to find the new primaries as well.
  const content = await eventually(() => rig.content(), quietMs);
  for (const dump of dumps) {
    if (proofs.has(dump.endpoint) || differences(dump, content).length === 0) continue;
    const replica = rig.engines.replicas.find(({ address }) => address === dump.endpoint);
    if (replica !== undefined) proofs.set(dump.endpoint, await proofOf(rig, replica, dump));
  }
  return judge(dumps, content, proofs);
}

async function proofOf(rig: FaultRig, replica: Replica, dump: ReplicaDump): Promise<Copies> {
  return provenBy(await rig.engines.buffered(replica), dump.nextSequence);
}

function isRight({ lost, phantom, unexplained }: Verdict): boolean {
  return lost.length === 0 && phantom.length === 0 && unexplained.length === 0;
}
