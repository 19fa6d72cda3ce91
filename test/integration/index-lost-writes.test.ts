import type { IndexWriter, SequencedOps } from "@kvatlas/shared/index/block-index";
import { chainOf } from "@kvatlas/shared/index/block-index.contract";
import { createRedisBlockIndex } from "@kvatlas/shared/index/redis-block-index";
import { createRedisKeys, scopeTag, shardOf } from "@kvatlas/shared/index/redis-keys";
import { silentLogger } from "@kvatlas/shared/logger";
import { createRedisConnection } from "@kvatlas/shared/redis";
import { createRedisEndpointRegistry } from "@kvatlas/shared/registry/redis-endpoint-registry";
import type { BlockKey, EndpointId, ScopeId } from "@kvatlas/shared/types";
import { Redis } from "ioredis";
import { afterAll, describe, expect, it } from "vitest";
import { testRedisUrl, uniqueKeyPrefix } from "../support/redis.ts";

const scope = "lost.b16" as ScopeId;
const endpoint = "10.0.0.1:8000" as EndpointId;
const chain = chainOf(1, 40);
const connection = createRedisConnection({ url: testRedisUrl(), commandTimeoutMs: 1_000 }, "background", silentLogger);
const raw = new Redis(testRedisUrl());
afterAll(async () => {
  await connection.close();
  raw.disconnect();
});

/** Four blocks a batch, and a copy of the first one: applying any batch twice, or none, shows. */
const log = Array.from({ length: 10 }, (_, seq): SequencedOps => {
  const ops = [chain.slice(seq * 4, seq * 4 + 4), chain.slice(0, 1)].map(
    (keys) => ({ op: "store", medium: "gpu", group: 0, keys }) as const,
  );
  return { seq, ops };
});

describe.each([1, 4])("a store that has lost acknowledged writes, with %i shards", (shards) => {
  async function setUp() {
    const prefix = uniqueKeyPrefix();
    const index = createRedisBlockIndex({ connection, keys: createRedisKeys(prefix) }, { defaultShards: shards, maxOpsPerCall: 7 });
    const target = { scope, endpoint, incarnation: 3, from: 0, fence: 5 };
    const keysNow = async () => {
      const keys: string[] = [];
      for await (const page of raw.scanStream({ match: `${prefix}:*`, count: 1_000 })) keys.push(...(page as string[]));
      return keys;
    };
    return {
      index,
      target,
      writer: await index.openWriter(target),
      keysNow,
      dump: async () => {
        const dumps = new Map<string, Buffer>();
        for (const key of await keysNow()) {
          const value = await raw.dumpBuffer(key);
          if (value !== null) dumps.set(key, value);
        }
        return dumps;
      },
      restore: async (dumps: ReadonlyMap<string, Buffer>) => {
        const keys = await keysNow();
        if (keys.length > 0) await raw.del(keys);
        for (const [key, value] of dumps) await raw.restore(key, 0, value);
      },
      expectWhole: async (writer: IndexWriter) => {
        expect(writer.applied).toBe(9);
        const [matches] = await index.lookup([{ scope, keys: chain }], { method: "exact" });
        expect(matches?.get(endpoint)?.blocks).toBe(40);
        const [first] = chain;
        if (first === undefined) throw new Error("no chain");
        expect((await index.holders(scope, first)).map(({ copies }) => copies)).toEqual([{ gpu: 11 }]);
      },
    };
  }

  it("is noticed when it has gone back to an earlier state, and whole again after the replay", async () => {
    const { writer, dump, restore, expectWhole } = await setUp();
    await writer.apply(log.slice(0, 4));
    await writer.settle();
    const earlier = await dump();
    await writer.apply(log.slice(4, 8));
    await restore(earlier);
    await expect(writer.apply(log.slice(8))).rejects.toMatchObject({ code: "KVATLAS_INDEX_BEHIND", retryable: true });
    expect(writer.applied).toBe(3);
    await writer.apply(log.slice(4));
    await expectWhole(writer);
  });

  it("is noticed without anything to write", async () => {
    const { writer, dump, restore, expectWhole } = await setUp();
    await writer.apply(log.slice(0, 4));
    await writer.settle();
    const earlier = await dump();
    await writer.apply(log.slice(4));
    await writer.verify();
    await restore(earlier);
    await expect(writer.verify()).rejects.toMatchObject({ code: "KVATLAS_INDEX_BEHIND", retryable: true });
    expect(writer.applied).toBe(3);
    await writer.apply(log.slice(4));
    await writer.verify();
    await expectWhole(writer);
    await restore(new Map());
    await expect(writer.verify()).rejects.toMatchObject({ code: "KVATLAS_INDEX_BEHIND" });
    expect(writer.applied).toBe(-1);
  });

  it("is noticed when even the taking-over is gone: the fence is raised again", async () => {
    const { index, target, writer, dump, restore, expectWhole } = await setUp();
    await writer.apply(log.slice(0, 4));
    await writer.settle();
    const earlier = await dump();
    const next = await index.openWriter({ ...target, fence: 6 });
    await next.apply(log.slice(4, 8));
    await restore(earlier);
    await expect(next.apply(log.slice(8))).rejects.toMatchObject({ code: "KVATLAS_INDEX_BEHIND" });
    expect(next.applied).toBe(3);
    await next.apply(log.slice(4));
    await expectWhole(next);
    await expect(writer.apply(log.slice(4))).rejects.toMatchObject({ code: "KVATLAS_INDEX_FENCED" });
  });

  it("is noticed when an incarnation has been lost with all it held", async () => {
    const { index, target, writer, dump, restore, expectWhole } = await setUp();
    await writer.apply(log.slice(0, 4));
    const earlier = await dump();
    const next = await index.openWriter({ ...target, incarnation: 4, fence: 6 });
    await next.apply(log);
    await restore(earlier);
    await expect(next.apply([{ ...log[9], seq: 10, ops: log[9]?.ops ?? [] }])).rejects.toMatchObject({ code: "KVATLAS_INDEX_BEHIND" });
    expect(next.applied).toBe(-1);
    await next.apply(log);
    await expectWhole(next);
  });

  it("is noticed when it is empty", async () => {
    const { writer, restore, expectWhole } = await setUp();
    await writer.apply(log.slice(0, 8));
    await restore(new Map());
    await expect(writer.apply(log.slice(8))).rejects.toMatchObject({ code: "KVATLAS_INDEX_BEHIND" });
    expect(writer.applied).toBe(-1);
    await writer.apply(log);
    await expectWhole(writer);
  });

  it("drops the blocks of an endpoint whose position it has lost, so that a replay does not count them twice", async () => {
    const { index, target, writer, keysNow, expectWhole } = await setUp();
    await writer.apply(log.slice(0, 8));
    await raw.del((await keysNow()).filter((key) => key.endsWith(":seq")));
    await expect(writer.apply(log.slice(8))).rejects.toMatchObject({ code: "KVATLAS_INDEX_STALE_INCARNATION" });
    const same = await index.openWriter(target);
    await same.apply(log);
    await expectWhole(same);
  });

  it("does so as well for a new owner who has written nothing yet, and for several at once", async () => {
    const { index, target, writer, keysNow, expectWhole } = await setUp();
    await writer.apply(log.slice(0, 8));
    const owners = [await index.openWriter({ ...target, fence: 6 })];
    for (let other = 0; other < 4; other += 1) {
      owners.push(await index.openWriter({ ...target, endpoint: `10.0.1.${other}:8000` as EndpointId, fence: 6 }));
    }
    await raw.del((await keysNow()).filter((key) => key.endsWith(":seq")));
    const attempts = owners.map((owner) => expect(owner.apply(log.slice(8))).rejects.toMatchObject({ code: "KVATLAS_INDEX_BEHIND" }));
    await Promise.all(attempts);
    for (const owner of owners) await owner.apply(log);
    const [first] = owners;
    if (first === undefined) throw new Error("no owner");
    const others = (await index.holders(scope, chain[0] as BlockKey)).map(({ endpoint: id, copies }) => [id, copies.gpu]);
    expect(others.toSorted()).toEqual(owners.map(({ target: { endpoint: id } }) => [id, 11]).toSorted());
    for (let n = 1; n < owners.length; n += 1) await index.forget(scope, owners[n]?.target.endpoint as EndpointId);
    let cursor: string | null = "0";
    while (cursor !== null) cursor = (await index.sweep(scope, cursor, 1_000)).next;
    await expectWhole(first);
  });

  it("drops blocks that have survived their positions before an owner who opens the endpoint can revive them", async () => {
    const { index, target, writer, keysNow, expectWhole } = await setUp();
    const other = { ...target, endpoint: "10.0.0.2:8000" as EndpointId };
    await writer.apply(log);
    await (await index.openWriter(other)).apply(log);
    await raw.del((await keysNow()).filter((key) => key.endsWith(":seq")));
    const next = await index.openWriter({ ...target, fence: 6 });
    expect(next.applied).toBe(-1);
    await next.apply(log);
    await expectWhole(next);
    // The other one's are gone as well, and come back with its replay.
    const second = await index.openWriter({ ...other, fence: 6 });
    expect(second.applied).toBe(-1);
    await second.apply(log);
    const copies = (await index.holders(scope, chain[0] as BlockKey)).map((holder) => holder.copies.gpu);
    expect(copies).toEqual([11, 11]);
  });
});

describe.each([1, 4])("a call that breaks off half-way, with %i shards", (shards) => {
  it("leaves nothing that counts, and is whole again after the replay", async () => {
    const prefix = uniqueKeyPrefix();
    const keys = createRedisKeys(prefix);
    const index = createRedisBlockIndex({ connection, keys }, { defaultShards: shards });
    const target = { scope, endpoint, incarnation: 3, from: 0, fence: 5 };
    const writer = await index.openWriter(target);
    const other = await index.openWriter({ ...target, endpoint: "10.0.0.2:8000" as EndpointId, incarnation: 4 });
    await writer.apply(log.slice(0, 5));
    await other.apply(log);
    // The script stumbles over a key of another type, after it has counted further copies of all blocks before it.
    const last = chain[20] as BlockKey;
    const block = keys.space(scopeTag(scope)).block(shardOf(last, shards), last);
    const entry = (await raw.dumpBuffer(block)) ?? Buffer.alloc(0);
    await raw.set(block, "x");
    const again = [{ seq: 5, ops: [{ op: "store", medium: "gpu", group: 0, keys: chain.slice(0, 21) }] }] as const;
    await expect(writer.apply(again)).rejects.toMatchObject({ code: "KVATLAS_REDIS_UNSUITABLE" });
    await raw.restore(block, 0, entry, "REPLACE");
    const live = async () => (await index.holders(scope, chain[0] as BlockKey)).filter((holder) => holder.live);
    if (shards === 1) expect((await live()).map((holder) => holder.endpoint)).toEqual([other.target.endpoint]);
    await expect(writer.apply(again)).rejects.toMatchObject({ code: "KVATLAS_INDEX_BEHIND" });
    expect(writer.applied).toBe(-1);
    await writer.apply([...log.slice(0, 5), ...again]);
    expect((await live()).map((holder) => holder.copies.gpu).toSorted((one, two) => (one ?? 0) - (two ?? 0))).toEqual([7, 11]);
    // A former owner cannot make use of the mark.
    await raw.set(block, "x");
    await expect(writer.apply([{ ...again[0], seq: 6 }])).rejects.toMatchObject({ code: "KVATLAS_REDIS_UNSUITABLE" });
    await raw.restore(block, 0, entry, "REPLACE");
    await expect(index.openWriter({ ...target, fence: 4 })).rejects.toMatchObject({ code: "KVATLAS_INDEX_FENCED" });
    const next = await index.openWriter({ ...target, fence: 6 });
    expect(next.applied).toBe(-1);
    await next.apply([...log.slice(0, 5), ...again, { ...again[0], seq: 6 }]);
    expect((await live()).map((holder) => holder.copies.gpu).toSorted((one, two) => (one ?? 0) - (two ?? 0))).toEqual([8, 11]);
  });
});

describe("incarnation numbers", () => {
  it("are not given out again after Redis has lost the counter, when the endpoint's own number is left", async () => {
    const keys = createRedisKeys(uniqueKeyPrefix());
    const registry = createRedisEndpointRegistry({ connection, keys });
    const lease = await registry.acquire(endpoint, "me", 10_000);
    if (lease === null) throw new Error("no lease");
    await raw.set(keys.incarnations, 4_711);
    expect(await registry.startIncarnation(lease, 0)).toBe(4_712);
    await raw.del(keys.incarnations);
    expect(await registry.startIncarnation(lease, 0)).toBe(4_713);
  });

  it("nor when only a shard knows them, or a writer that goes on after a loss of everything", async () => {
    const keys = createRedisKeys(uniqueKeyPrefix());
    const registry = createRedisEndpointRegistry({ connection, keys });
    const index = createRedisBlockIndex({ connection, keys });
    const lease = await registry.acquire(endpoint, "me", 10_000);
    if (lease === null) throw new Error("no lease");
    const old = await index.openWriter({ scope, endpoint, incarnation: 4_711, from: 0, fence: lease.fence });
    await old.apply(log);
    expect(await registry.startIncarnation(lease, 0)).toBe(1);
    await expect(index.openWriter({ scope, endpoint, incarnation: 1, from: 0, fence: lease.fence })).rejects.toMatchObject({
      code: "KVATLAS_INDEX_STALE_INCARNATION",
    });
    expect(await registry.startIncarnation(lease, 0)).toBe(4_712);
    const space = keys.space(scopeTag(scope));
    await raw.del(keys.incarnations, space.seq(0), ...chain.map((key) => space.block(0, key)));
    await expect(old.apply([{ seq: 10, ops: log[0]?.ops ?? [] }])).rejects.toMatchObject({ code: "KVATLAS_INDEX_BEHIND" });
    expect(Number(await raw.get(keys.incarnations))).toBe(4_711);
  });
});
