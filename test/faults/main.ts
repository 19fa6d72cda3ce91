import { parseArgs } from "node:util";
import { FaultRig } from "./fault-rig.ts";
import { type FaultKind, faultKinds, kindsOf, scheduleOf, type Topology } from "./fault-schedule.ts";
import { runSchedule, type ScheduleResult } from "./run-schedule.ts";

/*
 * `npm run faults`: random schedules of failures between real processes, and after each the index against what the replicas hold. Exit code 1
 * when anything differs, 2 when it was called wrongly.
 */

const usage = `Usage: npm run faults -- [--topology single|sentinel|cluster] [--schedules 20] [--seed 1] [--only kind,kind] [--replicas 8] [--ingesters 3] [--minutes N] [--keep-logs] [--json]
Schedule i runs with seed + i; a failing seed runs again with --seed <it> --schedules 1.
Kinds: ${faultKinds.join(", ")}
With Sentinel and in a cluster, of those of Redis: ${kindsOf("cluster")
  .filter((kind) => kind.startsWith("redis-"))
  .join(", ")}`;
const topologies: readonly Topology[] = ["single", "sentinel", "cluster"];

interface Options {
  readonly topology: Topology;
  readonly schedules: number;
  readonly seed: number;
  readonly kinds: readonly FaultKind[];
  readonly replicas: number;
  readonly ingesters: number;
  readonly minutes: number;
  readonly keepLogs: boolean;
  readonly json: boolean;
}

/** @throws TypeError saying what is wrong */
function readOptions(args: readonly string[]): Options {
  const text = { type: "string" } as const;
  const flag = { type: "boolean", default: false } as const;
  const { values } = parseArgs({
    args: [...args],
    options: {
      topology: text,
      schedules: text,
      seed: text,
      only: text,
      replicas: text,
      ingesters: text,
      minutes: text,
      "keep-logs": flag,
      json: flag,
    },
  });
  const whole = (name: "schedules" | "seed" | "replicas" | "ingesters" | "minutes", fallback: number, min: number, max: number): number => {
    const value = values[name] === undefined ? fallback : Number(values[name]);
    if (Number.isSafeInteger(value) && value >= min && value <= max) return value;
    throw new TypeError(`--${name}: got "${values[name]}", expected a whole number from ${min} to ${max}.`);
  };
  const topology = topologies.find((known) => known === (values.topology ?? "single"));
  if (topology === undefined) throw new TypeError(`--topology: got "${values.topology}", expected ${topologies.join(", ")}.`);
  const kinds = values.only?.split(",").map((name) => {
    const kind = kindsOf(topology).find((known) => known === name);
    if (kind === undefined) throw new TypeError(`--only: there is no kind "${name}" with --topology ${topology}.`);
    return kind;
  });
  const replicas = whole("replicas", 8, 2, 64);
  if (replicas % 2 === 1)
    throw new TypeError(`--replicas: got ${replicas}, expected an even number: they are divided between two processes.`);
  return {
    topology,
    schedules: whole("schedules", 20, 1, 1_000_000),
    seed: whole("seed", 1, 0, 0xffff_ffff),
    kinds: kinds ?? kindsOf(topology),
    replicas,
    ingesters: whole("ingesters", 3, 1, 16),
    minutes: whole("minutes", 100_000, 1, 100_000),
    keepLogs: values["keep-logs"],
    json: values.json,
  };
}

interface Failure {
  readonly seed: number;
  readonly lost: number;
  readonly phantom: number;
  readonly unexplained: number;
  readonly error?: string;
  readonly logs?: string;
}

async function run(options: Options, signal: AbortSignal): Promise<number> {
  const startedAt = performance.now();
  const catchUps: number[] = [];
  const failures: Failure[] = [];
  const faultsByKind: Partial<Record<FaultKind, number>> = {};
  let [schedules, lost, phantom, unexplained, beyondReplay, requests] = [0, 0, 0, 0, 0, 0];
  let rig: FaultRig | null = null;
  const say = (text: string): void => void process.stderr.write(`${text}\n`);
  try {
    for (let i = 0; i < options.schedules && !signal.aborted && performance.now() - startedAt < options.minutes * 60_000; i++) {
      const schedule = scheduleOf(options.seed + i, options.kinds);
      for (const { kind } of schedule.faults) faultsByKind[kind] = (faultsByKind[kind] ?? 0) + 1;
      const what = schedule.faults.map((fault) => `${fault.kind}@${fault.atMs}+${fault.durationMs}`).join(" ");
      schedules++;
      let failure: Failure | null = null;
      try {
        rig ??= await FaultRig.start(options);
        const result = await runSchedule(rig, schedule);
        catchUps.push(result.catchUpMs);
        requests += result.requests;
        beyondReplay += result.verdict.beyondReplay;
        failure = failureOf(schedule.seed, result);
        say(`${schedule.seed}: ${failure === null ? "right" : "WRONG"} after ${result.catchUpMs} ms, ${result.requests} requests; ${what}`);
        if (failure !== null) say(JSON.stringify({ ...result.verdict, records: await rig.records() }));
      } catch (error) {
        failure = {
          seed: schedule.seed,
          lost: 0,
          phantom: 0,
          unexplained: 1,
          error: error instanceof Error ? (error.stack ?? error.message) : String(error),
        };
        say(`${schedule.seed}: ${failure.error}; ${what}`);
      }
      if (failure === null) continue;
      lost += failure.lost;
      phantom += failure.phantom;
      unexplained += failure.unexplained;
      failures.push({ ...failure, ...(options.keepLogs && rig !== null ? { logs: rig.folder } : {}) });
      // What went wrong must not make the following schedules go wrong.
      await rig?.close({ keepLogs: options.keepLogs });
      rig = null;
    }
  } finally {
    await rig?.close();
  }
  const sorted = catchUps.toSorted((left, right) => left - right);
  const result = {
    topology: options.topology,
    schedules,
    lost,
    phantom,
    unexplained,
    slowestCatchUpMs: sorted.at(-1) ?? 0,
    medianCatchUpMs: sorted[Math.floor(sorted.length / 2)] ?? 0,
    beyondReplay,
    failingSeeds: failures.map(({ seed }) => seed),
    failures,
    requests,
    faults: faultsByKind,
    replicas: options.replicas,
    ingesters: options.ingesters,
    seconds: Math.round((performance.now() - startedAt) / 1_000),
  };
  process.stdout.write(options.json ? `${JSON.stringify(result)}\n` : `${JSON.stringify(result, null, 2)}\n`);
  return failures.length === 0 ? 0 : 1;
}

function failureOf(seed: number, { isRight, verdict }: ScheduleResult): Failure | null {
  if (isRight) return null;
  return { seed, lost: verdict.lost.length, phantom: verdict.phantom.length, unexplained: verdict.unexplained.length };
}

const stop = new AbortController();
for (const name of ["SIGINT", "SIGTERM"] as const) process.on(name, () => stop.abort());
process.on("disconnect", () => stop.abort());
process.channel?.unref();

try {
  process.exitCode = await run(readOptions(process.argv.slice(2)), stop.signal);
} catch (error) {
  if (!(error instanceof TypeError)) throw error;
  process.stderr.write(`${error.message}\n${usage}\n`);
  process.exitCode = 2;
}
