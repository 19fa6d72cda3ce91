import type { BlockIndex, IndexOp, SequencedOps } from "@kvatlas/shared/index/block-index";
import { chainOf } from "@kvatlas/shared/index/block-index.contract";
import { createRedisBlockIndex } from "@kvatlas/shared/index/redis-block-index";
import { createRedisKeys, scopeTag } from "@kvatlas/shared/index/redis-keys";
import { silentLogger } from "@kvatlas/shared/logger";
import { createRedisConnection } from "@kvatlas/shared/redis";
import type { BlockKey, EndpointId, EngineHash, ScopeId } from "@kvatlas/shared/types";
import { Redis } from "ioredis";
import { afterAll, describe, expect, it } from "vitest";
import { testRedisUrl, uniqueKeyPrefix } from "../support/redis.ts";

/* What engines call their blocks, in a Redis that loses things: whatever is held can be removed by its name, in every state there may be. */

const shards = 4;
const scope = "named.b16" as ScopeId;
const endpoint = "10.0.0.1:8000" as EndpointId;
const chain = chainOf(3, 40);
const connection = createRedisConnection({ url: testRedisUrl(), commandTimeoutMs: 1_000 }, "background", silentLogger);
const raw = new Redis(testRedisUrl());
afterAll(async () => {
  await connection.close();
  raw.disconnect();
});

const hashOf = (key: BlockKey) => [...key].reverse().join("") as EngineHash;
const named = (op: "store" | "remove", keys: readonly BlockKey[]): IndexOp => ({
  op,
  medium: "gpu",
  group: 0,
  keys,
  names: keys.map(hashOf),
});
/** Blocks come and go, some of them twice. */
const log: readonly SequencedOps[] = [
  { seq: 0, ops: [named("store", chain.slice(0, 20))] },
  { seq: 1, ops: [named("store", chain.slice(20)), named("remove", chain.slice(10, 20))] },
  { seq: 2, ops: [named("store", chain.slice(0, 5)), named("remove", chain.slice(30))] },
  { seq: 3, ops: [named("store", chain.slice(10, 15)), named("remove", chain.slice(0, 8))] },
  { seq: 4, ops: [named("remove", chain.slice(20, 30))] },
];
const heldAtTheEnd = [...chain.slice(0, 5), ...chain.slice(8, 15)];

function setUp() {
  const keys = createRedisKeys(uniqueKeyPrefix());
  const index = createRedisBlockIndex({ connection, keys }, { defaultShards: shards, maxOpsPerCall: 7 });
  return { index, space: keys.space(scopeTag(scope)), target: { scope, endpoint, incarnation: 3, from: 0, fence: 5 } };
}

async function heldIn(index: BlockIndex): Promise<BlockKey[]> {
  const holders = await Promise.all(chain.map((key) => index.holders(scope, key)));
  return chain.filter((_, i) => holders[i]?.some(({ live }) => live));
}

describe("names", () => {
  it.each(log.map((_, at) => at))("go back with the blocks of their shard alone, to what it was after batch %i", async (at) => {
    const { index, space, target } = setUp();
    for (let shard = 0; shard < shards; shard++) {
      const writer = await index.openWriter({ ...target, incarnation: 3 + shard, fence: 5 + shard });
      const find = (keys: readonly BlockKey[]) => writer.keysOf(keys.map((key) => ({ hash: hashOf(key), group: 0 })));
      for (const batch of log.slice(0, at + 1)) await writer.apply([batch]);
      await writer.settle();
      const keysOfShard = () => raw.keys(`${space.prefix}${shard}}:*`);
      const earlier = new Map(await Promise.all((await keysOfShard()).map(async (key) => [key, await raw.dumpBuffer(key)] as const)));
      await writer.apply(log.slice(at + 1));
      await writer.settle();
      const gone = await keysOfShard();
      if (gone.length > 0) await raw.del(gone);
      for (const [key, value] of earlier) if (value !== null) await raw.restore(key, 0, value);

      const held = await heldIn(index);
      expect(await find(held)).toEqual(held);
      // Nothing but what is held has a name, so names do not pile up.
      expect((await find(chain)).filter((key) => key !== null)).toHaveLength(held.length);
      if (at < log.length - 1) await expect(writer.verify()).rejects.toMatchObject({ code: "KVATLAS_INDEX_BEHIND" });
      await writer.apply(log);
      expect(await heldIn(index)).toEqual(heldAtTheEnd);
      expect((await find(chain)).filter((key) => key !== null)).toEqual(heldAtTheEnd);
    }
  });

  it("of incarnations that are over and of endpoints that are forgotten are reclaimed, and no others", async () => {
    const { index, space, target } = setUp();
    const other = { ...target, endpoint: "[fd00::1]:8000/1" as EndpointId };
    const tables = async () => (await raw.keys(`${space.prefix}*}:h:*`)).map((key) => key.slice(key.indexOf(":h:") + 3));
    await (await index.openWriter(target)).apply([{ seq: 0, ops: [named("store", chain)] }]);
    await (await index.openWriter(other)).apply([{ seq: 0, ops: [named("store", chain)] }]);
    expect(new Set(await tables())).toEqual(new Set([`${endpoint}:3`, `${other.endpoint}:3`]));
    const late = await raw.dumpBuffer(space.names(0, endpoint, 3));
    await (await index.openWriter({ ...target, incarnation: 4 })).apply([{ seq: 0, ops: [named("store", chain)] }]);
    expect(new Set(await tables())).toEqual(new Set([`${endpoint}:4`, `${other.endpoint}:3`]));
    await raw.restore(space.names(0, endpoint, 3), 0, late ?? "");
    await index.forget(scope, other.endpoint);
    for (let cursor: string | null = "0"; cursor !== null; ) cursor = (await index.sweep(scope, cursor, 10)).next;
    expect(new Set(await tables())).toEqual(new Set([`${endpoint}:4`]));
    expect(await heldIn(index)).toEqual(chain);
  });
});
