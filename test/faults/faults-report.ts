import { type Arrangement, type ArrangementName, dimensions } from "./arrangement.ts";
import type { FaultKind, Schedule, Topology } from "./fault-schedule.ts";
import type { ScheduleResult } from "./run-schedule.ts";

/** A schedule after which the index was not what the replicas hold, or not in time. */
export interface Failure {
  readonly seed: number;
  /** The command that runs it again alone, and the one that runs it behind those that shared its processes. */
  readonly again: string;
  readonly againWithBefore: string;
  readonly lost: number;
  readonly phantom: number;
  readonly unexplained: number;
  /** How long the machine kept the test itself from running, at most. */
  readonly heldUpMs?: number;
  /** Ms after which it was right all the same. */
  readonly lateMs?: number;
  readonly error?: string;
  readonly logs?: string;
}

export interface FaultsReport {
  readonly topology: Topology;
  readonly schedules: number;
  /** Schedules that were right within 10 s of quiet. */
  readonly right: number;
  readonly lost: number;
  readonly phantom: number;
  readonly unexplained: number;
  /** Schedules that were right, but not within 10 s of quiet. */
  readonly late: number;
  readonly slowestCatchUpMs: number;
  readonly p99CatchUpMs: number;
  readonly medianCatchUpMs: number;
  readonly beyondReplay: number;
  readonly kept: number;
  readonly lostGaps: number;
  readonly failingSeeds: readonly number[];
  readonly failures: readonly Failure[];
  readonly requests: number;
  /** How often each kind of fault has been let loose. */
  readonly faults: Readonly<Partial<Record<FaultKind, number>>>;
  /** Schedules by value of each dimension of the arrangement. */
  readonly arrangements: Readonly<Record<string, Readonly<Record<string, number>>>>;
  readonly replicas: number;
  readonly ingesters: number;
  readonly seconds: number;
}

/** Adds schedules up. */
export class Tally {
  readonly #catchUps: number[] = [];
  readonly #faults: Partial<Record<FaultKind, number>> = {};
  readonly #arrangements = new Map<ArrangementName, Map<string, number>>();
  readonly failures: Failure[] = [];
  #schedules = 0;
  #late = 0;
  #beyondReplay = 0;
  #kept = 0;
  #lostGaps = 0;
  #requests = 0;

  begin(schedule: Schedule, arrangement: Arrangement): void {
    this.#schedules += 1;
    for (const { kind } of schedule.faults) this.#faults[kind] = (this.#faults[kind] ?? 0) + 1;
    for (const name of Object.keys(dimensions) as ArrangementName[]) {
      const counts = this.#arrangements.get(name) ?? new Map<string, number>(dimensions[name].map((value) => [value, 0]));
      this.#arrangements.set(name, counts.set(arrangement[name], (counts.get(arrangement[name]) ?? 0) + 1));
    }
  }

  add({ catchUpMs, verdict, isLate, requests }: ScheduleResult): void {
    this.#catchUps.push(catchUpMs);
    this.#requests += requests;
    this.#beyondReplay += verdict.beyondReplay;
    this.#kept += verdict.kept;
    if (isLate) this.#late += 1;
  }

  addLostGaps(count: number): void {
    this.#lostGaps += count;
  }

  report(about: Pick<FaultsReport, "topology" | "replicas" | "ingesters" | "seconds">): FaultsReport {
    const sorted = this.#catchUps.toSorted((left, right) => left - right);
    const sum = (name: "lost" | "phantom" | "unexplained"): number => this.failures.reduce((total, failure) => total + failure[name], 0);
    return {
      topology: about.topology,
      schedules: this.#schedules,
      right: this.#schedules - this.failures.length,
      lost: sum("lost"),
      phantom: sum("phantom"),
      unexplained: sum("unexplained"),
      late: this.#late,
      slowestCatchUpMs: sorted.at(-1) ?? 0,
      p99CatchUpMs: sorted[Math.floor(sorted.length * 0.99)] ?? 0,
      medianCatchUpMs: sorted[Math.floor(sorted.length / 2)] ?? 0,
      beyondReplay: this.#beyondReplay,
      kept: this.#kept,
      lostGaps: this.#lostGaps,
      failingSeeds: this.failures.map(({ seed }) => seed),
      failures: this.failures,
      requests: this.#requests,
      faults: this.#faults,
      arrangements: Object.fromEntries([...this.#arrangements].map(([name, counts]) => [name, Object.fromEntries(counts)])),
      replicas: about.replicas,
      ingesters: about.ingesters,
      seconds: about.seconds,
    };
  }
}

/** For people. */
export function renderReport(report: FaultsReport): string {
  const list = (counts: Readonly<Record<string, number | undefined>>): string =>
    Object.entries(counts)
      .map(([name, count]) => `${name} ${count ?? 0}`)
      .join(", ");
  const lines = [
    `${report.right} of ${report.schedules} schedules right (${report.topology}, ${report.replicas} replicas, ${report.ingesters} ingesters, ${report.requests} requests, ${report.seconds} s)`,
    `lost ${report.lost}, phantom ${report.phantom}, unexplained ${report.unexplained}, late ${report.late}`,
    `caught up after ${report.medianCatchUpMs} ms (median), ${report.p99CatchUpMs} ms (p99), ${report.slowestCatchUpMs} ms (slowest)`,
    `gaps that nothing could fill: ${report.lostGaps}; blocks missing beyond replay: ${report.beyondReplay}; blocks too many where gaps are kept: ${report.kept}`,
    `faults: ${list(report.faults)}`,
    ...Object.entries(report.arrangements).map(([name, counts]) => `${name}: ${list(counts)}`),
    ...report.failures.map(
      ({ seed, again, error }) => `failed: seed ${seed}${error === undefined ? "" : ` (${error.split("\n", 1)[0]})`}: ${again}`,
    ),
  ];
  return `${lines.join("\n")}\n`;
}
