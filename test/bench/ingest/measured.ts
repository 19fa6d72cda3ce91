import { round } from "../statistics.ts";
import type { BenchServers } from "./servers.ts";

/** A process that is asked how much CPU it has used. */
export interface CpuMeter {
  cpuSeconds(): Promise<number>;
}

/** What some block operations took. CPU time says more than the clock where the machine has other things to do. */
export interface Cost {
  readonly operations: number;
  readonly operationsPerSecond: number;
  /** CPU microseconds per operation, of all primaries together. */
  readonly redisMicrosecondsEach: number;
  /** Of this process, which makes the load. */
  readonly benchMicrosecondsEach: number;
  /** Of the ingester; absent where there is none. */
  readonly ingesterMicrosecondsEach?: number;
}

/** Runs `work`, which answers with the number of its operations. */
export async function measured(servers: BenchServers, ingester: CpuMeter | null, work: () => Promise<number>): Promise<Cost> {
  const before = { redis: await servers.cpuSeconds(), ingester: await ingester?.cpuSeconds(), bench: process.cpuUsage() };
  const began = performance.now();
  const operations = await work();
  const seconds = (performance.now() - began) / 1_000;
  const bench = process.cpuUsage(before.bench);
  const each = (spentSeconds: number) => round((spentSeconds * 1e6) / operations);
  return {
    operations,
    operationsPerSecond: Math.round(operations / seconds),
    redisMicrosecondsEach: each((await servers.cpuSeconds()) - before.redis),
    benchMicrosecondsEach: each((bench.user + bench.system) / 1e6),
    ...(ingester === null ? {} : { ingesterMicrosecondsEach: each((await ingester.cpuSeconds()) - (before.ingester ?? 0)) }),
  };
}

/** The round in the middle, by rate. */
export function medianRound(rounds: readonly Cost[]): Cost {
  const sorted = [...rounds].sort((left, right) => left.operationsPerSecond - right.operationsPerSecond);
  const middle = sorted[Math.floor(sorted.length / 2)];
  if (middle === undefined) throw new Error("no rounds");
  return middle;
}
