import { setTimeout as sleep } from "node:timers/promises";
import { FaultRig } from "../faults/fault-rig.ts";
import type { Fault } from "../faults/fault-schedule.ts";
import { startLoad } from "../faults/request-load.ts";
import { afterQuiet } from "../faults/run-schedule.ts";

/*
 * One of three ingesters is killed (SIGKILL) while 8 replicas serve requests: the time until every endpoint it looked after has another owner, and
 * until the index has all that their engines have published. With the default lease of 3 s. Afterwards the index is compared with the pools.
 */

const rounds = 5;
const requestsPerSecond = 40;
const warmUpMs = 3_000;
const pollMs = 20;
const giveUpMs = 30_000;

interface Round {
  readonly endpoints: number;
  readonly ownedMs: number;
  readonly caughtUpMs: number;
  /** Blocks in which the index differed from the pools once the load had ended. */
  readonly wrongBlocks: number;
}

async function runRound(rig: FaultRig, round: number): Promise<Round> {
  const load = startLoad(rig.engines, round, requestsPerSecond);
  try {
    await sleep(warmUpMs);
    const before = await rig.lag();
    const kill: Fault = { kind: "ingester-kill", atMs: 0, durationMs: 0, target: round, amount: 0 };
    const killedAt = performance.now();
    await rig.begin(kill);
    const [moved, caughtUp] = [new Map<string, number>(), new Map<string, number>()];
    while (performance.now() - killedAt < giveUpMs) {
      await sleep(pollMs);
      const now = await rig.lag();
      const elapsedMs = performance.now() - killedAt;
      for (const [endpoint, { owner, batches }] of now) {
        const former = before.get(endpoint)?.owner ?? null;
        if (owner !== null && owner !== former && !moved.has(endpoint)) moved.set(endpoint, elapsedMs);
        if (moved.has(endpoint) && batches <= 0 && !caughtUp.has(endpoint)) caughtUp.set(endpoint, elapsedMs);
      }
      const orphans = [...now.values()].filter(({ owner }) => owner === null).length;
      const isOver = elapsedMs > warmUpMs && orphans === 0 && moved.size > 0 && caughtUp.size === moved.size;
      if (isOver) break;
    }
    load.stop();
    await load.drained();
    await rig.heal();
    const { verdict } = await afterQuiet(rig);
    return {
      endpoints: moved.size,
      ownedMs: Math.round(Math.max(...moved.values())),
      caughtUpMs: Math.round(Math.max(...caughtUp.values())),
      wrongBlocks: verdict.lost.length + verdict.phantom.length + verdict.unexplained.length,
    };
  } finally {
    load.stop();
  }
}

export async function run(): Promise<object> {
  const rig = await FaultRig.start({ replicas: 8, ingesters: 3, timing: {} });
  try {
    const results: Round[] = [];
    for (let round = 0; round < rounds; round++) results.push(await runRound(rig, round));
    return {
      about: "SIGKILL of one of 3 ingesters, 8 replicas under load, default lease (3 s)",
      requestsPerSecond,
      rounds: results,
      slowestCaughtUpMs: Math.max(...results.map(({ caughtUpMs }) => caughtUpMs)),
    };
  } finally {
    await rig.close();
  }
}
