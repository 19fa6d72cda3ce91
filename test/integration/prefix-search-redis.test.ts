import type { PrefixMatch } from "@kvatlas/shared/index/block-index";
import { chainOf } from "@kvatlas/shared/index/block-index.contract";
import { createRedisBlockIndex } from "@kvatlas/shared/index/redis-block-index";
import { createRedisKeys, mediaByRank } from "@kvatlas/shared/index/redis-keys";
import { silentLogger } from "@kvatlas/shared/logger";
import { createRedisConnection, type RedisConnection } from "@kvatlas/shared/redis";
import type { CacheGroup, EndpointId, ScopeId } from "@kvatlas/shared/types";
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { testRedisUrl, uniqueKeyPrefix } from "../support/redis.ts";

let connection: RedisConnection;
beforeAll(() => {
  connection = createRedisConnection({ url: testRedisUrl(), commandTimeoutMs: 5_000 }, "background", silentLogger);
});
afterAll(() => connection.close());

const scope = "search.b16" as ScopeId;
const group = (id: number): CacheGroup => ({ id, kind: "full", blockSizeTokens: 16, windowTokens: null });

/** Of one endpoint: blocks of the chain held in a medium of each rank or better, in each of its cache groups. */
type Residency = readonly (readonly number[])[];

const lengthsOf = (blocks: number) =>
  fc
    .array(fc.oneof(fc.constantFrom(0, 1, blocks), fc.integer({ min: 0, max: blocks })), { minLength: 4, maxLength: 4 })
    .map((lengths) => lengths.sort((a, b) => a - b));

const fleets = fc.integer({ min: 1, max: 300 }).chain((blocks) =>
  fc.record({
    blocks: fc.constant(blocks),
    // More than are asked for by name, too.
    residencies: fc.array(fc.array(lengthsOf(blocks), { minLength: 1, maxLength: 2 }), { minLength: 1, maxLength: 24 }),
  }),
);

function expected(blocks: number, residency: Residency): PrefixMatch | null {
  const lengths = mediaByRank.map((_, rank) => Math.min(blocks, ...residency.map((list) => list[rank] ?? 0)));
  const whole = lengths.at(-1) ?? 0;
  if (whole === 0) return null;
  const byMedium = mediaByRank.flatMap((medium, rank) => {
    const count = (lengths[rank] ?? 0) - (lengths[rank - 1] ?? 0);
    return count > 0 ? [[medium, count] as const] : [];
  });
  return { blocks: whole, byMedium: Object.fromEntries(byMedium) };
}

describe.each([1, 16])("the search for prefixes in %d shards", (shards) => {
  it("finds what each endpoint holds, whatever the chain, the media, the cache groups and the number of endpoints", async () => {
    await fc.assert(
      fc.asyncProperty(fleets, async ({ blocks, residencies }) => {
        const index = createRedisBlockIndex({ connection, keys: createRedisKeys(uniqueKeyPrefix()) }, { defaultShards: shards });
        const chain = chainOf(1, blocks);
        const groups = new Map<EndpointId, readonly CacheGroup[]>();
        const truth = new Map<EndpointId, PrefixMatch>();
        for (const [i, residency] of residencies.entries()) {
          const endpoint = `10.0.0.${i}:8000` as EndpointId;
          const writer = await index.openWriter({ scope, endpoint, incarnation: i + 1, from: 0, fence: 1 });
          const ops = residency.flatMap((lengths, id) =>
            mediaByRank.map((medium, rank) => ({ op: "store" as const, medium, group: id, keys: chain.slice(0, lengths[rank]) })),
          );
          await writer.apply([{ seq: 0, ops }]);
          if (residency.length > 1)
            groups.set(
              endpoint,
              residency.map((_, id) => group(id)),
            );
          const match = expected(blocks, residency);
          if (match !== null) truth.set(endpoint, match);
        }
        const query = { scope, keys: chain, groups };
        expect(await index.lookup([query])).toEqual([truth]);
        expect(await index.lookup([query], { method: "exact" })).toEqual([truth]);
      }),
      { numRuns: 40 },
    );
  });

  it("does not take what an earlier incarnation has left for held", async () => {
    const index = createRedisBlockIndex({ connection, keys: createRedisKeys(uniqueKeyPrefix()) }, { defaultShards: shards });
    const chain = chainOf(1, 100);
    const endpoint = "10.0.0.1:8000" as EndpointId;
    for (const [incarnation, held] of [
      [1, 100],
      [12, 40],
    ] as const) {
      const writer = await index.openWriter({ scope, endpoint, incarnation, from: 0, fence: incarnation });
      await writer.apply([{ seq: 0, ops: [{ op: "store", medium: "gpu", group: 0, keys: chain.slice(0, held) }] }]);
    }
    expect(await index.lookup([{ scope, keys: chain }])).toEqual([new Map([[endpoint, { blocks: 40, byMedium: { gpu: 40 } }]])]);
  });

  it("never claims a block beyond a hole that it has seen", async () => {
    const index = createRedisBlockIndex({ connection, keys: createRedisKeys(uniqueKeyPrefix()) }, { defaultShards: shards });
    const chain = chainOf(1, 100);
    const endpoint = "10.0.0.1:8000" as EndpointId;
    const writer = await index.openWriter({ scope, endpoint, incarnation: 1, from: 0, fence: 1 });
    await writer.apply([{ seq: 0, ops: [{ op: "store", medium: "gpu", group: 0, keys: [...chain.slice(0, 7), ...chain.slice(80)] }] }]);
    const [found] = await index.lookup([{ scope, keys: chain }]);
    expect([...(found ?? [])]).toEqual([[endpoint, { blocks: 7, byMedium: { gpu: 7 } }]]);
  });
});
