import { cpus, loadavg } from "node:os";
import { readNames, readOptions } from "./arguments.ts";
import { startBenchRedis } from "./bench-redis.ts";
import { BareScript, hsetPerBlock } from "./ingest/floors.ts";
import { LiveIngester } from "./ingest/live-ingester.ts";
import { type Cost, measured, medianRound } from "./ingest/measured.ts";
import { bytesPerBlock } from "./ingest/memory.ts";
import { type BenchServers, type BenchTopology, startServers, topologies } from "./ingest/servers.ts";
import { percentiles, round } from "./statistics.ts";

/*
 * One ingester process between 8 publishers and each kind of Redis. Batches are as vLLM 0.24 to 0.32 writes them: 64 blocks of 16 tokens stored, and
 * in steady state 64 removed. Rounds alternate with what the same Redis does at best, so that whatever else the machine does falls on both.
 */

interface Size {
  /** Batches of each of 8 engines: stored at first, stored and removed in each round, sent at half the rate. */
  readonly fill: number;
  readonly steady: number;
  readonly rounds: number;
  readonly paced: number;
  /** Block operations of a round of a floor. */
  readonly floor: number;
  /** Blocks in the index at which the memory of the ingester is looked at. */
  readonly growth: readonly number[];
  /** Blocks of which the memory in Redis is measured. */
  readonly memory: number;
}

const sizes: { readonly whole: Size; readonly quick: Size } = {
  whole: {
    fill: 250,
    steady: 250,
    rounds: 5,
    paced: 400,
    floor: 250_000,
    growth: [500_000, 1_000_000, 1_500_000, 2_000_000],
    memory: 100_000,
  },
  quick: { fill: 40, steady: 60, rounds: 1, paced: 60, floor: 50_000, growth: [50_000, 100_000], memory: 10_000 },
};

export const usage = `Usage: npm run bench -- ingest [--topology single,sentinel,cluster] [--quick]
Block operations per second of one ingester, latency and memory, beside what the same Redis does at best. JSON on stdout.
  --topology  which kinds of Redis: one server, a primary behind Sentinels, a cluster of 3 primaries. Default: all three
  --quick     few batches: shows that everything runs; figures are rough
  --help      this text`;

export async function run(args: readonly string[]): Promise<object> {
  const options = readOptions(args, { values: ["topology"], flags: ["quick"] });
  const wanted = readNames(options.value("topology"), topologies, "--topology");
  const size = options.has("quick") ? sizes.quick : sizes.whole;
  const found: Record<string, object> = {};
  for (const topology of wanted) found[topology] = await withServers(topology, (servers) => ingestOn(topology, servers, size));
  return {
    about: {
      node: process.versions.node,
      cores: cpus().length,
      cpu: cpus()[0]?.model ?? "",
      loadAverage: loadavg().map((load) => round(load, 1)),
    },
    ...found,
    bytesPerBlock: await memory(size),
  };
}

async function withServers<T>(topology: BenchTopology, work: (servers: BenchServers) => Promise<T>): Promise<T> {
  tell(`${topology}: starting Redis`);
  const servers = await startServers(topology);
  try {
    return await work(servers);
  } finally {
    await servers.stop();
  }
}

async function ingestOn(topology: BenchTopology, servers: BenchServers, size: Size): Promise<object> {
  const bare = await BareScript.start(servers);
  // Both ends of every connection are warm before anything counts.
  await bare.round(size.floor);
  tell(`${topology}: starting an ingester`);
  const ingester = await LiveIngester.start(servers);
  try {
    const drain = (batches: number, removes: boolean) => measured(servers, ingester, ingester.prepare(batches, removes));
    const stores = await drain(size.fill, false);
    const [mixed, script, hset]: [Cost[], Cost[], Cost[]] = [[], [], []];
    for (let i = 0; i < size.rounds; i += 1) {
      mixed.push(await drain(size.steady, true));
      script.push(await bare.round(size.floor));
      hset.push(await hsetPerBlock(servers, size.floor / 2));
      tell(
        `${topology}: round ${i + 1} of ${size.rounds}: ingester ${rateOf(mixed)}/s, bare script ${rateOf(script)}/s, HSETs ${rateOf(hset)}/s`,
      );
    }
    const rate = medianRound(mixed).operationsPerSecond;
    const paced = async (share: number) => {
      const { milliseconds, lookMilliseconds } = await ingester.latencies(size.paced, rate * share);
      const eventToVisibleMs = percentiles(milliseconds);
      tell(`${topology}: event to visible at ${share} of that rate, ms: ${JSON.stringify(eventToVisibleMs)}`);
      return { batches: milliseconds.length, eventToVisibleMs, betweenLooksMs: percentiles(lookMilliseconds) };
    };
    const atHalfThatRate = await paced(0.5);
    const atEighthOfThatRate = await paced(0.125);
    return {
      shards: servers.shards,
      stores,
      storesAndRemovals: medianRound(mixed),
      bareScript: medianRound(script),
      hsetPerBlock: medianRound(hset),
      roundsPerSecond: { ingester: mixed.map(rateOfRound), bareScript: script.map(rateOfRound), hsetPerBlock: hset.map(rateOfRound) },
      shareOfBareScript: round(rate / medianRound(script).operationsPerSecond, 2),
      atHalfThatRate,
      atEighthOfThatRate,
      ...(topology === "single" ? { residentBytes: await growth(servers, ingester, size) } : {}),
    };
  } finally {
    await ingester.close();
  }
}

/** Of the ingester's process, as the index grows. */
async function growth(servers: BenchServers, ingester: LiveIngester, size: Size): Promise<object[]> {
  const seen: { blocks: number; rss: number }[] = [];
  let stored = 0;
  for (const blocks of size.growth) {
    await ingester.grow(blocks - stored);
    stored = blocks;
    seen.push({ blocks, rss: await ingester.residentBytes() });
    tell(
      `single: ${blocks} blocks more in an index of ${await servers.client.dbsize()} keys, ingester ${Math.round((seen.at(-1)?.rss ?? 0) / 1e6)} MB`,
    );
  }
  return seen;
}

async function memory(size: Size): Promise<object> {
  tell("bytes per block");
  const redis = await startBenchRedis();
  try {
    return await bytesPerBlock(redis, size.memory, 8);
  } finally {
    await redis.close();
  }
}

function rateOf(rounds: readonly Cost[]): number {
  return rounds.at(-1)?.operationsPerSecond ?? 0;
}

function rateOfRound({ operationsPerSecond }: Cost): number {
  return operationsPerSecond;
}

function tell(what: string): void {
  console.error(what);
}
