import { arrangementOf, isSameArrangement, kindsIn, seedsPerArrangement, settingsOf } from "./arrangement.ts";
import { FaultRig } from "./fault-rig.ts";
import { type Schedule, scheduleOf } from "./fault-schedule.ts";
import { commandFor, type FaultsOptions, help, readOptions } from "./faults-options.ts";
import { type Failure, renderReport, Tally } from "./faults-report.ts";
import { runSchedule, type ScheduleResult } from "./run-schedule.ts";

/*
 * `npm run faults`: random schedules of failures between real processes, and after each the index against what the replicas hold. Exit code 1
 * when anything differs, 2 when it was called wrongly.
 */

const maxListed = 20;

function say(text: string): void {
  process.stderr.write(`${text}\n`);
}

async function run(options: FaultsOptions, signal: AbortSignal): Promise<number> {
  const startedAt = performance.now();
  const tally = new Tally();
  const rigs = new Rigs(options, tally);
  const isTime = (): boolean => !signal.aborted && performance.now() - startedAt < options.minutes * 60_000;
  try {
    for (let seed = options.seed; seed < options.seed + options.schedules && isTime(); seed++) {
      const arrangement = arrangementOf(seed, options.fixed);
      const schedule = scheduleOf(seed, options.only ?? kindsIn(options.topology, arrangement));
      tally.begin(schedule, arrangement);
      try {
        const rig = await rigs.for(seed);
        const result = await runSchedule(rig, schedule);
        tally.add(result);
        say(`${seed}: ${describe(result)}; ${result.requests} requests, held up ${result.heldUpMs} ms; ${faultsOf(schedule)}`);
        if (result.isRight) continue;
        sayWhatIsWrong(result);
        say(JSON.stringify(await rig.records().catch(() => "the registry cannot be read")));
        tally.failures.push({ ...failureOf(options, seed, result), ...rigs.logs() });
      } catch (error) {
        const text =
          error instanceof Error ? `${error.stack ?? error.message}${error.cause === undefined ? "" : `\n${error.cause}`}` : String(error);
        say(`${seed}: ${text}; ${faultsOf(schedule)}`);
        tally.failures.push({ ...commands(options, seed), seed, lost: 0, phantom: 0, unexplained: 1, error: text, ...rigs.logs() });
      }
      say(`  again: ${commands(options, seed).again}`);
      // What went wrong must not make the following schedules go wrong.
      await rigs.end(options.keepLogs);
    }
  } finally {
    await rigs.end(false);
  }
  const { topology, replicas, ingesters } = options;
  const report = tally.report({ topology, replicas, ingesters, seconds: Math.round((performance.now() - startedAt) / 1_000) });
  process.stdout.write(options.json ? `${JSON.stringify(report)}\n` : renderReport(report));
  return tally.failures.length === 0 ? 0 : 1;
}

/** The processes of the arrangement that is at hand. */
class Rigs {
  readonly #options: FaultsOptions;
  readonly #tally: Tally;
  #rig: FaultRig | null = null;
  #group = Number.NaN;

  constructor(options: FaultsOptions, tally: Tally) {
    this.#options = options;
    this.#tally = tally;
  }

  async for(seed: number): Promise<FaultRig> {
    const group = Math.floor(seed / seedsPerArrangement);
    const arrangement = arrangementOf(seed, this.#options.fixed);
    // Other seeds, the same arrangement: the processes may as well go on, unless the seeds before would then have to run as well.
    if (this.#rig !== null && group === this.#group && isSameArrangement(this.#rig.arrangement, arrangement)) return this.#rig;
    await this.end(false);
    const { topology, replicas, ingesters } = this.#options;
    say(`-- ${topology}: ${settingsOf(arrangement).join(" ") || "plain"}`);
    this.#group = group;
    this.#rig = await FaultRig.start({ topology, replicas, ingesters, arrangement });
    return this.#rig;
  }

  logs(): Pick<Failure, "logs"> {
    return this.#options.keepLogs && this.#rig !== null ? { logs: this.#rig.folder } : {};
  }

  async end(keepLogs: boolean): Promise<void> {
    const rig = this.#rig;
    this.#rig = null;
    if (rig === null) return;
    await rig.lostGaps.unsettled();
    this.#tally.addLostGaps(rig.lostGaps.total);
    await rig.close({ keepLogs });
  }
}

function describe({ isRight, isLate, catchUpMs, verdict }: ScheduleResult): string {
  if (isRight) return `right after ${catchUpMs} ms`;
  if (isLate) return `LATE: right after ${catchUpMs} ms`;
  return `WRONG: lost ${verdict.lost.length}, phantom ${verdict.phantom.length}, unexplained ${verdict.unexplained.length}`;
}

function sayWhatIsWrong({ verdict }: ScheduleResult): void {
  for (const kind of ["lost", "phantom"] as const) {
    for (const { endpoint, place, indexed, held } of verdict[kind].slice(0, maxListed))
      say(`  ${kind}: ${endpoint} ${place}, ${indexed} in the index, ${held} held`);
  }
  for (const text of verdict.unexplained.slice(0, maxListed)) say(`  unexplained: ${text}`);
}

function faultsOf(schedule: Schedule): string {
  return schedule.faults.map((fault) => `${fault.kind}@${fault.atMs}+${fault.durationMs}`).join(" ");
}

function failureOf(options: FaultsOptions, seed: number, { verdict, isLate, catchUpMs, heldUpMs }: ScheduleResult): Failure {
  return {
    ...commands(options, seed),
    seed,
    lost: verdict.lost.length,
    phantom: verdict.phantom.length,
    unexplained: verdict.unexplained.length,
    heldUpMs,
    ...(isLate ? { lateMs: catchUpMs } : {}),
  };
}

function commands(options: FaultsOptions, seed: number): Pick<Failure, "again" | "againWithBefore"> {
  const first = Math.max(options.seed, seed - (seed % seedsPerArrangement));
  return { again: commandFor(options, seed, 1), againWithBefore: commandFor(options, first, seed - first + 1) };
}

const stop = new AbortController();
for (const name of ["SIGINT", "SIGTERM"] as const) process.on(name, () => stop.abort());
process.on("disconnect", () => stop.abort());
process.channel?.unref();

try {
  const options = readOptions(process.argv.slice(2));
  if (options === null) process.stdout.write(`${help()}\n`);
  else process.exitCode = await run(options, stop.signal);
} catch (error) {
  if (!(error instanceof TypeError)) throw error;
  process.stderr.write(`${error.message}\nnpm run faults -- --help shows how it is called.\n`);
  process.exitCode = 2;
}
