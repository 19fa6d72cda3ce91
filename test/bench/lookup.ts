import type { BlockIndex, PrefixQuery } from "@kvatlas/shared/index/block-index";
import { createRedisBlockIndex } from "@kvatlas/shared/index/redis-block-index";
import { createRedisKeys, type RedisKeys, scopeTag } from "@kvatlas/shared/index/redis-keys";
import type { BlockKey, EndpointId, ScopeId } from "@kvatlas/shared/types";
import type { Redis } from "ioredis";
import { startBenchRedis } from "./bench-redis.ts";
import { createRandom, percentiles } from "./statistics.ts";

/*
 * One lookup at a time over TCP, 8 endpoints: probing against reading every key, through the index (`exact`) and in one plain pipeline (`floor`,
 * which only fetches and decides nothing). All methods take turns, so that a busy machine slows them alike.
 */

const SCOPE = "qwen3-32b.b16.sha256_cbor.s0" as ScopeId;
const ENDPOINTS = 8;
const ROUNDS = 150;
const WARM_UP = 30;

function chainOf(seed: number, blocks: number): BlockKey[] {
  const random = createRandom(seed);
  const half = () => random().toString(16).padStart(8, "0");
  return Array.from({ length: blocks }, () => (half() + half()) as BlockKey);
}

/** How much of a chain each endpoint holds. */
const residencies: Readonly<Record<string, (endpoint: number, blocks: number) => number>> = {
  allHoldAll: (_, blocks) => blocks,
  eachHoldsAnEighthMore: (endpoint, blocks) => Math.floor((blocks * (endpoint + 1)) / ENDPOINTS),
  oneHoldsAllButTheLastTurn: (endpoint, blocks) => (endpoint === 0 ? blocks - 13 : Math.min(40, blocks)),
  nobodyHoldsAny: () => 0,
};

async function fill(
  index: BlockIndex,
  chain: readonly BlockKey[],
  seq: number,
  held: (endpoint: number, blocks: number) => number,
): Promise<void> {
  for (let endpoint = 0; endpoint < ENDPOINTS; endpoint += 1) {
    const id = `10.0.0.${endpoint + 1}:8000` as EndpointId;
    const writer = await index.openWriter({ scope: SCOPE, endpoint: id, incarnation: endpoint + 1, from: 0, fence: 1 });
    await writer.apply([{ seq, ops: [{ op: "store", medium: "gpu", group: 0, keys: chain.slice(0, held(endpoint, chain.length)) }] }]);
  }
}

async function readEveryKey(raw: Redis, keys: RedisKeys, chain: readonly BlockKey[]): Promise<void> {
  const pipeline = raw.pipeline();
  const space = keys.space(scopeTag(SCOPE));
  pipeline.hgetall(space.seq(0));
  for (const key of chain) pipeline.hgetall(space.block(0, key));
  await pipeline.exec();
}

export async function run(): Promise<object> {
  const redis = await startBenchRedis();
  try {
    const keys = createRedisKeys("kva");
    const index = createRedisBlockIndex({ connection: redis.connection, keys });
    const cases: Record<string, object> = {};
    let seq = 0;
    for (const blocks of [500, 750, 2_000]) {
      for (const [name, held] of Object.entries(residencies)) {
        const chain = chainOf(seq + 1, blocks);
        await fill(index, chain, seq, held);
        seq += 1;
        const query: PrefixQuery = { scope: SCOPE, keys: chain };
        const methods = {
          probe: () => index.lookup([query]),
          exact: () => index.lookup([query], { method: "exact" }),
          floor: () => readEveryKey(redis.raw, keys, chain),
        };
        const milliseconds: Record<keyof typeof methods, number[]> = { probe: [], exact: [], floor: [] };
        for (let round = 0; round < ROUNDS + WARM_UP; round += 1) {
          for (const method of ["probe", "exact", "floor"] as const) {
            const began = performance.now();
            await methods[method]();
            if (round >= WARM_UP) milliseconds[method].push(performance.now() - began);
          }
        }
        const [probed] = await index.lookup([query]);
        const [exact] = await index.lookup([query], { method: "exact" });
        for (const [endpoint, match] of exact ?? []) {
          if (probed?.get(endpoint)?.blocks !== match.blocks) throw new Error(`probing differs from reading every key for ${endpoint}`);
        }
        const figures = {
          probeMs: percentiles(milliseconds.probe),
          exactMs: percentiles(milliseconds.exact),
          readEveryKeyMs: percentiles(milliseconds.floor),
        };
        cases[`${blocks} blocks, ${name}`] = {
          ...figures,
          timesFaster: Number((figures.readEveryKeyMs.p50 / figures.probeMs.p50).toFixed(1)),
        };
      }
    }
    return { about: redis.about, endpoints: ENDPOINTS, cases };
  } finally {
    await redis.close();
  }
}
