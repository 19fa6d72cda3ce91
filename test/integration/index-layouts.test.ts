import { type Clock, FakeClock, systemClock } from "@kvatlas/shared/clock";
import type { ScopeSpec } from "@kvatlas/shared/hashing/key-scheme";
import type { BlockIndex, SequencedOps } from "@kvatlas/shared/index/block-index";
import { chainOf } from "@kvatlas/shared/index/block-index.contract";
import { createRedisBlockIndex } from "@kvatlas/shared/index/redis-block-index";
import { createRedisKeys } from "@kvatlas/shared/index/redis-keys";
import { silentLogger } from "@kvatlas/shared/logger";
import { createRedisConnection } from "@kvatlas/shared/redis";
import { createRedisEndpointRegistry } from "@kvatlas/shared/registry/redis-endpoint-registry";
import type { EndpointId, ScopeId } from "@kvatlas/shared/types";
import { Redis } from "ioredis";
import { afterAll, describe, expect, it } from "vitest";
import { eventually } from "../support/eventually.ts";
import { testRedisUrl, uniqueKeyPrefix } from "../support/redis.ts";

/* How a scope's keys move: to another number of shards, to another schema version, back after a loss of `kva:scopes`, and away when nobody uses them. */

const scope = "m.b16" as ScopeId;
const spec: ScopeSpec = { model: "m", blockSizeTokens: 16, scheme: { kind: "native", algorithm: "sha256_cbor", seed: "0" } };
const [a, b] = ["10.0.0.1:8000", "10.0.0.2:8000"] as EndpointId[] as [EndpointId, EndpointId];
const chain = chainOf(1, 40);
const log = Array.from({ length: 10 }, (_, seq): SequencedOps => {
  return { seq, ops: [{ op: "store", medium: "gpu", group: 0, keys: chain.slice(seq * 4, seq * 4 + 4) }] };
});

const connection = createRedisConnection({ url: testRedisUrl(), commandTimeoutMs: 1_000 }, "background", silentLogger);
const raw = new Redis(testRedisUrl());
afterAll(async () => {
  await connection.close();
  raw.disconnect();
});

function setUp() {
  const prefix = uniqueKeyPrefix();
  const keys = createRedisKeys(prefix);
  // A process that has just been started: it remembers nothing.
  const process = (shards: number, clock: Clock = systemClock) => ({
    index: createRedisBlockIndex({ connection, keys, clock }, { defaultShards: shards }),
    registry: createRedisEndpointRegistry({ connection, keys }, { shards }),
  });
  const target = (endpoint: EndpointId, fence = 1) => ({ scope, endpoint, incarnation: endpoint === a ? 1 : 2, from: 0, fence });
  const registered = async () => JSON.parse((await raw.hget(keys.scopes, scope)) ?? "null");
  const keysNow = async () => (await raw.keys(`${prefix}:{*`)).map((key) => key.slice(prefix.length + 1));
  return { keys, process, target, registered, keysNow };
}

async function held(index: BlockIndex, endpoint: EndpointId): Promise<number> {
  const [matches] = await index.lookup([{ scope, keys: chain }], { method: "exact" });
  return matches?.get(endpoint)?.blocks ?? 0;
}

async function reclaimAll(index: BlockIndex, used: readonly ScopeId[]): Promise<number> {
  let dropped = 0;
  for (let cursor: string | null = "0"; cursor !== null; ) {
    const slice: { next: string | null; dropped: number } = await index.reclaim(new Set(used), cursor, 10);
    dropped += slice.dropped;
    cursor = slice.next;
  }
  return dropped;
}

describe("another number of shards", () => {
  it.each([
    { from: 1, to: 16 },
    { from: 16, to: 1 },
  ])("from $from to $to is another layout, which writers fill from their replays and readers follow", async ({ from, to }) => {
    const { process, target, registered, keysNow } = setUp();
    const before = process(from);
    await before.registry.ensureScope(scope, spec);
    const writers = [await before.index.openWriter(target(a)), await before.index.openWriter(target(b))] as const;
    for (const writer of writers) await writer.apply(log);
    const former = await registered();
    expect(await held(before.index, a)).toBe(40);

    const after = process(to);
    expect(await after.registry.ensureScope(scope, spec)).toBe(to);
    const record = await registered();
    expect(record).toMatchObject({ shards: to, former: [{ tag: former.tag, shards: from }] });
    expect(record.tag).not.toBe(former.tag);
    // Nobody else changes it again.
    expect(await after.registry.ensureScope(scope, spec)).toBe(to);
    expect(await registered()).toEqual(record);

    // One endpoint moves to an ingester that is new, the other's owner notices by itself.
    const next = await after.index.openWriter(target(a, 2));
    expect(next.applied).toBe(-1);
    await next.apply(log);
    await expect(writers[0].verify()).rejects.toMatchObject({ code: "KVATLAS_INDEX_FENCED" });
    await expect(writers[1].verify()).rejects.toMatchObject({ code: "KVATLAS_INDEX_BEHIND" });
    expect(writers[1].applied).toBe(-1);
    await writers[1].apply(log);
    await writers[1].verify();
    expect([await held(after.index, a), await held(after.index, b)]).toEqual([40, 40]);

    // What was there before is nobody's, and goes.
    expect(await reclaimAll(after.index, [scope])).toBe(80);
    expect((await keysNow()).filter((key) => key.startsWith(`{${former.tag}.`))).toEqual([]);
    expect(await registered()).not.toHaveProperty("former");
    expect([await held(after.index, a), await held(after.index, b)]).toEqual([40, 40]);
  });

  it("leaves the former keys alone while an endpoint still has a position there, and hides nothing from those who read them", async () => {
    const { process, target } = setUp();
    const clock = new FakeClock();
    const before = process(1, clock);
    await before.registry.ensureScope(scope, spec);
    for (const endpoint of [a, b]) await (await before.index.openWriter(target(endpoint))).apply(log);
    const after = process(16);
    await after.registry.ensureScope(scope, spec);
    await (await after.index.openWriter(target(a, 2))).apply(log);
    expect(await reclaimAll(after.index, [scope])).toBe(0);
    expect(await held(after.index, b)).toBe(0);
    // A reader that has not noticed yet sees what is still true: b, and not a, which is written elsewhere.
    expect([await held(before.index, a), await held(before.index, b)]).toEqual([0, 40]);
    clock.advance(1_000);
    await eventually(async () => expect([await held(before.index, a), await held(before.index, b)]).toEqual([40, 0]));
    await after.index.forget(scope, b);
    expect(await reclaimAll(after.index, [scope])).toBe(80);
  });

  it("is registered once by several at the same time", async () => {
    const { process, registered } = setUp();
    await process(1).registry.ensureScope(scope, spec);
    const all = await Promise.all(Array.from({ length: 8 }, () => process(16).registry.ensureScope(scope, spec)));
    expect(all).toEqual(Array.from({ length: 8 }, () => 16));
    expect((await registered()).former).toHaveLength(1);
  });
});

describe("another schema version", () => {
  it("has a registration and keys of its own; an endpoint counts only where it was opened last", async () => {
    const { keys, process, target } = setUp();
    const { index, registry } = process(1);
    await registry.ensureScope(scope, spec);
    // What a later version would write.
    await raw.hset(keys.scopes, `${scope}@2`, JSON.stringify({ tag: "new", shards: 2, schemaVersion: 2 }));
    for (const shard of [0, 1]) await raw.hset(keys.space("new").seq(shard), a, "1:1:5", b, "2:1:5");
    expect([...(await registry.scopes()).keys()]).toEqual([scope]);
    await (await index.openWriter(target(a, 2))).apply(log);
    for (const shard of [0, 1]) expect(await raw.hgetall(keys.space("new").seq(shard))).toEqual({ [b]: "2:1:5" });
    // It is not this version's to reclaim.
    await index.forget(scope, b);
    await reclaimAll(index, [scope]);
    expect(await raw.hexists(keys.scopes, `${scope}@2`)).toBe(1);
  });

  it("that is past is reclaimed, with its blocks, once nobody writes it", async () => {
    const { keys, process, target } = setUp();
    const { index, registry } = process(1);
    await raw.hset(keys.scopes, `${scope}@0`, JSON.stringify({ tag: "old", shards: 1, schemaVersion: 0 }));
    await raw.hset(keys.space("old").seq(0), a, "1:1:5");
    await raw.hset(keys.space("old").block(0, chain[0] ?? ("" as never)), a, "1:gpu");
    await registry.ensureScope(scope, spec);
    expect(await reclaimAll(index, [scope])).toBe(0);
    await index.openWriter(target(a));
    expect(await reclaimAll(index, [scope])).toBe(1);
    expect(await raw.hkeys(keys.scopes)).toEqual([scope]);
  });

  it("in this version's place is replaced by a new registration", async () => {
    const { keys, process, registered } = setUp();
    await raw.hset(keys.scopes, scope, JSON.stringify({ tag: "abc", shards: 1, schemaVersion: 99 }));
    await process(1).registry.ensureScope(scope, spec);
    expect(await registered()).toMatchObject({ schemaVersion: 1, former: [{ tag: "abc", shards: 1 }] });
  });
});

describe("a registration that is lost", () => {
  it("is put back by the writers, and readers read on in the meantime", async () => {
    const { keys, process, target, registered } = setUp();
    const { index, registry } = process(4);
    await registry.ensureScope(scope, spec);
    const writer = await index.openWriter(target(a));
    await writer.apply(log.slice(0, 5));
    const before = await registered();
    expect(await held(index, a)).toBe(20);
    await raw.del(keys.scopes);
    expect(await held(index, a)).toBe(20);
    await writer.verify();
    expect(await registered()).toEqual(before);
    await writer.apply(log.slice(5));
    expect(await held(process(4).index, a)).toBe(40);
  });

  it("and made anew by somebody else in another form is followed, and the former keys are reclaimed", async () => {
    const { keys, process, target, registered } = setUp();
    const before = process(4);
    await before.registry.ensureScope(scope, spec);
    const writer = await before.index.openWriter(target(a));
    await writer.apply(log);
    const { tag } = await registered();
    await raw.del(keys.scopes);
    // The tag is taken, so that the new registration has to use another one.
    await raw.hset(keys.scopes, "other.b16", JSON.stringify({ tag, shards: 1, schemaVersion: 1, createdAt: new Date().toISOString() }));
    await process(4).registry.ensureScope(scope, spec);
    await raw.hdel(keys.scopes, "other.b16");
    await expect(writer.verify()).rejects.toMatchObject({ code: "KVATLAS_INDEX_BEHIND" });
    await writer.apply(log);
    expect(await held(process(4).index, a)).toBe(40);
    expect((await registered()).former).toEqual([{ tag, shards: 4 }]);
    expect(await reclaimAll(before.index, [scope])).toBe(40);
  });
});

describe("a scope that no endpoint uses", () => {
  it("is removed with its blocks, when it is not new and nobody has a position in it", async () => {
    const { keys, process, target, keysNow } = setUp();
    const { index } = process(2);
    const now = Date.now();
    const registryAt = (ms: number) => createRedisEndpointRegistry({ connection, keys, clock: { now: () => ms, monotonic: () => ms } });
    await registryAt(now - 3_600_000).ensureScope(scope, spec);
    await (await index.openWriter(target(a))).apply(log);
    const other = "other.b16" as ScopeId;
    await registryAt(now).ensureScope(other, { ...spec, model: "other" });
    expect(await reclaimAll(index, [])).toBe(0);
    await index.forget(scope, a);
    expect(await reclaimAll(index, [scope])).toBe(0);
    expect(await reclaimAll(index, [])).toBe(40);
    expect(await keysNow()).toEqual([]);
    expect(await raw.hkeys(keys.scopes)).toEqual([other]);
  });
});
