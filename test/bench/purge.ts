import { purgeIndex } from "@kvatlas/ingester/housekeeping/purge-index";
import { systemClock } from "@kvatlas/shared/clock";
import type { IndexWriter } from "@kvatlas/shared/index/block-index";
import { createRedisBlockIndex } from "@kvatlas/shared/index/redis-block-index";
import { createRedisKeys } from "@kvatlas/shared/index/redis-keys";
import { MemoryHousekeepingRecords } from "@kvatlas/shared/registry/memory-housekeeping-records";
import { createRedisEndpointRegistry } from "@kvatlas/shared/registry/redis-endpoint-registry";
import type { BlockKey, EndpointId, ScopeId } from "@kvatlas/shared/types";
import { type BenchRedis, startBenchRedis } from "./bench-redis.ts";
import { createRandom, percentiles, round } from "./statistics.ts";

/*
 * What the purge costs ingestion: the same writes, in one process with Redis on the same machine, without a purge, with one at the default rate and with one
 * that only pauses nineteen times as long as each of its slices took. Rounds alternate, so that whatever else the machine does falls on all of them.
 */

const SCOPE = "m.b16" as ScopeId;
const ENDPOINT = "10.0.0.1:8000" as EndpointId;
const LIVE_BLOCKS = 200_000;
const OPS_PER_CALL = 500;
const CALLS_PER_ROUND = 1_200;
const ROUNDS = 9;
/** Writes under way at a time; one ingester has as many as endpoints that are busy. */
const WRITERS = 4;
/** How long the purge runs alone. */
const IDLE_MS = 3_000;

const rates = { none: null, default: 20_000, shareOnly: 100_000_000 } as const;
type RateName = keyof typeof rates;

async function writers(redis: BenchRedis): Promise<readonly IndexWriter[]> {
  const index = createRedisBlockIndex({ connection: redis.connection, keys: createRedisKeys("kva") });
  return Promise.all(
    Array.from({ length: WRITERS }, (_, i) =>
      index.openWriter({ scope: SCOPE, endpoint: `10.0.1.${i}:8000` as EndpointId, incarnation: 1, from: 0, fence: 1 }),
    ),
  );
}

/** Stores and removes the same number of blocks, on and on. */
async function load(list: readonly IndexWriter[], keys: readonly BlockKey[], seqs: number[]) {
  const latencies: number[] = [];
  const began = performance.now();
  await Promise.all(
    list.map(async (writer, i) => {
      for (let call = 0; call < CALLS_PER_ROUND / list.length; call += 1) {
        const seq = seqs[i] ?? 0;
        const from = (seq * OPS_PER_CALL) % (keys.length - OPS_PER_CALL);
        const slice = keys.slice(from, from + OPS_PER_CALL / 2);
        const sent = performance.now();
        await writer.apply([
          {
            seq,
            ops: [
              { op: "store", medium: "gpu", group: 0, keys: slice },
              { op: "remove", medium: "gpu", group: 0, keys: slice },
            ],
          },
        ]);
        latencies.push(performance.now() - sent);
        seqs[i] = seq + 1;
      }
    }),
  );
  return { operationsPerSecond: (CALLS_PER_ROUND * OPS_PER_CALL * 1_000) / (performance.now() - began), latencies };
}

export async function run(): Promise<object> {
  const redis = await startBenchRedis();
  try {
    const keys = createRedisKeys("kva");
    const index = createRedisBlockIndex({ connection: redis.connection, keys });
    const registry = createRedisEndpointRegistry({ connection: redis.connection, keys });
    await registry.ensureScope(SCOPE, { model: "m", blockSizeTokens: 16, scheme: { kind: "native", algorithm: "sha256_cbor", seed: "0" } });
    const random = createRandom(1);
    const word = () => random().toString(16).padStart(8, "0");
    const blocks = Array.from({ length: LIVE_BLOCKS }, () => `${word()}${word()}` as BlockKey);
    const filler = await index.openWriter({ scope: SCOPE, endpoint: ENDPOINT, incarnation: 1, from: 0, fence: 1 });
    await filler.apply([{ seq: 0, ops: [{ op: "store", medium: "gpu", group: 0, keys: blocks }] }]);
    const list = await writers(redis);
    const seqs = list.map(() => 0);
    await load(list, blocks, seqs);

    const idle = { examined: 0, began: performance.now() };
    await keepPurging(redis, rates.default, AbortSignal.timeout(IDLE_MS), (examined) => {
      idle.examined += examined;
    });
    const idlePerSecond = (idle.examined * 1_000) / (performance.now() - idle.began);

    const seen: Record<RateName, { rates: number[]; latencies: number[]; examined: number; seconds: number; redisCpu: number }> = {
      none: { rates: [], latencies: [], examined: 0, seconds: 0, redisCpu: 0 },
      default: { rates: [], latencies: [], examined: 0, seconds: 0, redisCpu: 0 },
      shareOnly: { rates: [], latencies: [], examined: 0, seconds: 0, redisCpu: 0 },
    };
    for (let i = 0; i < ROUNDS; i += 1) {
      for (const name of Object.keys(rates) as RateName[]) {
        const abort = new AbortController();
        const rate = rates[name];
        const began = performance.now();
        const cpu = await redis.cpuSeconds();
        const purge =
          rate === null
            ? Promise.resolve()
            : keepPurging(redis, rate, abort.signal, (examined) => {
                seen[name].examined += examined;
              });
        const { operationsPerSecond, latencies } = await load(list, blocks, seqs);
        abort.abort();
        await purge;
        seen[name].redisCpu += (await redis.cpuSeconds()) - cpu;
        seen[name].seconds += (performance.now() - began) / 1_000;
        seen[name].rates.push(operationsPerSecond);
        seen[name].latencies.push(...latencies);
      }
    }
    return {
      about: redis.about,
      liveBlocks: LIVE_BLOCKS,
      examinedPerSecondWhenIdle: Math.round(idlePerSecond),
      ...Object.fromEntries(
        Object.entries(seen).map(([name, { rates: found, latencies, examined, seconds, redisCpu }]) => [
          name,
          {
            operationsPerSecond: Math.round(median(found)),
            callMs: percentiles(latencies),
            examinedPerSecond: round(examined / seconds, 0),
            redisCpuSecondsPerMillionOperations: round((redisCpu * 1_000_000) / (ROUNDS * CALLS_PER_ROUND * OPS_PER_CALL)),
          },
        ]),
      ),
    };
  } finally {
    await redis.close();
  }
}

/** One walk after the other: there is always something to do. */
async function keepPurging(
  redis: BenchRedis,
  blocksPerSecond: number,
  signal: AbortSignal,
  onExamined: (count: number) => void,
): Promise<void> {
  const keys = createRedisKeys("kva");
  const index = createRedisBlockIndex({ connection: redis.connection, keys });
  const registry = createRedisEndpointRegistry({ connection: redis.connection, keys });
  try {
    for (;;) {
      await purgeIndex(
        { registry, index, records: new MemoryHousekeepingRecords(), clock: systemClock, onSlice: onExamined },
        { blocksPerSecond, maxRunMs: 60_000 },
        signal,
      );
    }
  } catch (error) {
    if (!signal.aborted) throw error;
  }
}

function median(values: readonly number[]): number {
  return [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)] ?? 0;
}
