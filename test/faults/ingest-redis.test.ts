import { createRedisBackend } from "@kvatlas/shared/backend";
import { configSchema } from "@kvatlas/shared/config/schema";
import { createRedisBlockIndex } from "@kvatlas/shared/index/redis-block-index";
import { createRedisKeys, scopeTag } from "@kvatlas/shared/index/redis-keys";
import { silentLogger } from "@kvatlas/shared/logger";
import { createRedisConnection } from "@kvatlas/shared/redis";
import { createRedisEndpointRegistry } from "@kvatlas/shared/registry/redis-endpoint-registry";
import { Redis } from "ioredis";
import { afterEach, describe, expect, it } from "vitest";
import { eventually } from "../support/eventually.ts";
import {
  heldBy,
  poolOf,
  recordOf,
  startTestIngester,
  type TestIngester,
  TestPrompt,
  type TestStore,
  testConfig,
} from "../support/ingest-rig.ts";
import { pausable } from "../support/pausable-store.ts";
import { freePort, type RedisServer, startRedisServer } from "../support/redis-server.ts";
import { TestPublisher, type TestPublisherOptions } from "../support/test-publisher.ts";

const address = "127.0.0.1:1";
const cleanups: (() => Promise<unknown>)[] = [];

afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

async function redis(port?: number): Promise<RedisServer> {
  const server = await startRedisServer(port === undefined ? {} : { port });
  cleanups.push(() => server.stop());
  return server;
}

function storeOn(port: number): TestStore {
  const config = configSchema.parse({ redis: { url: `redis://127.0.0.1:${port}` } });
  const backend = createRedisBackend(config.redis, "background", silentLogger);
  cleanups.push(() => backend.close());
  return backend;
}

async function publisherWith(options: TestPublisherOptions = {}): Promise<TestPublisher> {
  const publisher = await TestPublisher.start(options);
  cleanups.push(() => publisher.close());
  return publisher;
}

async function ingest(
  publisher: TestPublisher,
  store: TestStore,
  settings: Parameters<typeof testConfig>[1] = {},
  instanceId = "a",
): Promise<TestIngester> {
  const rig = await startTestIngester(store, testConfig([poolOf([{ address, publisher }])], settings), instanceId);
  cleanups.push(() => rig.ingester.close());
  return rig;
}

async function caughtUp(rig: TestIngester): Promise<void> {
  await eventually(() => expect([...rig.ingester.owned().values()]).toEqual([{ isCaughtUp: true }]));
}

async function expectHeld(store: TestStore, prompt: TestPrompt, counts: readonly number[]): Promise<void> {
  await eventually(async () => expect(await heldBy(store, address, prompt.keys)).toEqual(counts));
}

describe("Redis under an ingester", () => {
  it("stands still: what comes meanwhile is applied afterwards, once", async () => {
    const server = await redis();
    const store = storeOn(server.port);
    const publisher = await publisherWith();
    const rig = await ingest(publisher, store, { leaseTtlMs: 60_000 });
    await caughtUp(rig);
    const prompt = new TestPrompt(1, 3);
    await publisher.publish([prompt.stored()]);
    await expectHeld(store, prompt, [1, 1, 1]);
    server.pause();
    await publisher.publish([prompt.stored(2, 3)]);
    await publisher.publish([prompt.removed(1)]);
    server.resume();
    await expectHeld(store, prompt, [1, 0, 2]);
    expect((await recordOf(store, address))?.state.incarnation).toBe(1);
  });

  it("comes back empty: everything is built again by replay", async () => {
    const server = await redis();
    const store = storeOn(server.port);
    const publisher = await publisherWith();
    const rig = await ingest(publisher, store);
    await caughtUp(rig);
    const prompt = new TestPrompt(1, 3);
    await publisher.publish([prompt.stored(0, 2)]);
    await expectHeld(store, prompt, [1, 1, 0]);
    await server.stop();
    await publisher.publish([prompt.stored(2, 3)]);
    await publisher.publish([prompt.removed(1)]);
    await redis(server.port);
    await expectHeld(store, prompt, [1, 0, 1]);
  });

  it("is away when the ingester is closed: nobody waits for it", async () => {
    const server = await redis();
    const publisher = await publisherWith();
    const rig = await ingest(publisher, storeOn(server.port));
    await caughtUp(rig);
    await publisher.publish([new TestPrompt(1, 3).stored()]);
    await server.stop();
    await rig.ingester.close();
  });

  it("is not there yet: the ingester starts, and begins when it is", async () => {
    const port = await freePort();
    const store = storeOn(port);
    const publisher = await publisherWith();
    const rig = await ingest(publisher, store);
    expect(rig.ingester.readiness()).not.toEqual([]);
    const prompt = new TestPrompt(1, 2);
    await publisher.publish([prompt.stored()]);
    await redis(port);
    await expectHeld(store, prompt, [1, 1]);
    await eventually(() => expect(rig.ingester.readiness()).toEqual([]));
  });

  it("stands still for longer than the queue lasts: the dropped events are replayed", async () => {
    const server = await redis();
    const store = storeOn(server.port);
    const publisher = await publisherWith();
    const rig = await ingest(publisher, store, { leaseTtlMs: 60_000, maxQueuedBytes: 65_536, maxBatchOps: 10 });
    await caughtUp(rig);
    const prompt = new TestPrompt(1, 400);
    await publisher.publish([prompt.stored(0, 1)]);
    await expectHeld(store, prompt, [1, ...Array.from({ length: 399 }, () => 0)]);
    server.pause();
    for (let block = 1; block < 400; block++) {
      await publisher.publish([prompt.stored(block, block + 1), ...(block % 3 === 0 ? [prompt.removed(block)] : [])]);
      // Events between these make the queue overflow: payloads of known blocks.
      await publisher.publish([
        prompt.stored(0, 60),
        { type: "BlockRemoved", block_hashes: prompt.keys.slice(0, 60).map((key) => BigInt(`0x${key}`)), medium: "GPU" },
      ]);
    }
    server.resume();
    await expectHeld(store, prompt, oracle(prompt));
    expect(await rig.metric("kvatlas_ingester_gaps_total", { cause: "overflow" })).toBeGreaterThan(0);
    expect(await rig.metric("kvatlas_ingester_lost_gaps_total")).toBe(0);
  });

  it("loses acknowledged writes in a failover: they are replayed", async () => {
    const server = await redis();
    const store = storeOn(server.port);
    const publisher = await publisherWith();
    const rig = await ingest(publisher, store);
    await caughtUp(rig);
    const prompt = new TestPrompt(1, 4);
    await publisher.publish([prompt.stored(0, 2)]);
    await expectHeld(store, prompt, [1, 1, 0, 0]);
    const client = new Redis(server.port, "127.0.0.1");
    cleanups.push(async () => client.disconnect());
    const scope = (await recordOf(store, address))?.meta.scope;
    if (scope === undefined || scope === null) throw new Error("the scope is known by now");
    const shardKeys = async (): Promise<string[]> => client.keys(`${createRedisKeys("kva").space(scopeTag(scope)).prefix}*`);
    const replica = new Map<string, Buffer>();
    for (const key of await shardKeys()) replica.set(key, (await client.dumpBuffer(key)) ?? Buffer.alloc(0));
    await publisher.publish([prompt.removed(1)]);
    await publisher.publish([prompt.stored(2, 3)]);
    await expectHeld(store, prompt, [1, 0, 1, 0]);
    for (const key of await shardKeys()) await client.del(key);
    for (const [key, value] of replica) await client.restore(key, 0, value, "REPLACE");
    expect(await heldBy(store, address, prompt.keys)).toEqual([1, 1, 0, 0]);
    await publisher.publish([prompt.stored(3, 4)]);
    await expectHeld(store, prompt, [1, 0, 1, 1]);
    expect(await rig.metric("kvatlas_ingester_gaps_total", { cause: "behind" })).toBe(1);
  });

  it("forgets the scopes alone, as a node of a cluster does that is flushed: the running session registers its scope again", async () => {
    const server = await redis();
    const store = storeOn(server.port);
    const publisher = await publisherWith();
    const rig = await ingest(publisher, store);
    await caughtUp(rig);
    const prompt = new TestPrompt(1, 3);
    await publisher.publish([prompt.stored(0, 2)]);
    await expectHeld(store, prompt, [1, 1, 0]);
    const client = new Redis(server.port, "127.0.0.1");
    cleanups.push(async () => client.disconnect());
    const before = await client.hgetall("kva:scopes");
    await client.del("kva:scopes");
    await eventually(async () => expect(await client.hgetall("kva:scopes")).toEqual(before));
    await publisher.publish([prompt.stored(2, 3)]);
    await expectHeld(store, prompt, [1, 1, 1]);
    expect(await rig.metric("kvatlas_ingester_gaps_total", { cause: "behind" })).toBe(0);
  });

  it("becomes one that needs other shards: the running session follows its scope there, and the next owner finds it whole", async () => {
    const server = await redis();
    const store = storeOn(server.port);
    const publisher = await publisherWith();
    const rig = await ingest(publisher, store, { leaseTtlMs: 1_000 });
    await caughtUp(rig);
    const prompt = new TestPrompt(1, 4);
    await publisher.publish([prompt.stored(0, 3)]);
    await publisher.publish([prompt.removed(1)]);
    await expectHeld(store, prompt, [1, 0, 1, 0]);
    const config = configSchema.parse({ redis: { url: `redis://127.0.0.1:${server.port}` } });
    const connection = createRedisConnection(config.redis, "background", silentLogger);
    cleanups.push(() => connection.close());
    const sharded = createRedisEndpointRegistry({ connection, keys: createRedisKeys("kva") }, { shards: 4 });
    const [known] = await sharded.scopes();
    if (known === undefined) throw new Error("the scope is known by now");
    const [scope, spec] = known;
    expect(await sharded.ensureScope(scope, spec)).toBe(4);
    const other = { ...store, registry: sharded };
    await eventually(async () => expect(await rig.metric("kvatlas_ingester_gaps_total", { cause: "behind" })).toBe(1));
    await expectHeld(store, prompt, [1, 0, 1, 0]);
    await rig.ingester.close();
    const next = await ingest(publisher, other, { leaseTtlMs: 1_000 }, "b");
    await caughtUp(next);
    await publisher.publish([prompt.stored(3, 4)]);
    await expectHeld(store, prompt, [1, 0, 1, 1]);
    const index = createRedisBlockIndex({ connection, keys: createRedisKeys("kva") });
    await index.reclaim(new Set([scope]), "0", 1_000);
    const client = new Redis(server.port, "127.0.0.1");
    cleanups.push(async () => client.disconnect());
    expect(await client.keys(`kva:{${spec.tag}.*`)).toEqual([]);
  });

  it("loses acknowledged writes while nothing is published: they are replayed all the same (seed 47)", async () => {
    const server = await redis();
    const store = storeOn(server.port);
    const publisher = await publisherWith();
    const rig = await ingest(publisher, store);
    await caughtUp(rig);
    const prompt = new TestPrompt(1, 4);
    await publisher.publish([prompt.stored(0, 2)]);
    await expectHeld(store, prompt, [1, 1, 0, 0]);
    const client = new Redis(server.port, "127.0.0.1");
    cleanups.push(async () => client.disconnect());
    const scope = (await recordOf(store, address))?.meta.scope;
    if (scope === undefined || scope === null) throw new Error("the scope is known by now");
    const space = createRedisKeys("kva").space(scopeTag(scope));
    const seq = space.seq(0);
    const [position, block] = [await client.dumpBuffer(seq), space.block(0, prompt.keys[1] ?? ("" as never))];
    const entry = await client.dumpBuffer(block);
    await publisher.publish([prompt.removed(1)]);
    await expectHeld(store, prompt, [1, 0, 0, 0]);
    if (position === null || entry === null) throw new Error("both were there");
    await client.restore(seq, 0, position, "REPLACE");
    await client.restore(block, 0, entry, "REPLACE");
    expect(await heldBy(store, address, prompt.keys)).toEqual([1, 1, 0, 0]);
    await expectHeld(store, prompt, [1, 0, 0, 0]);
    expect(await rig.metric("kvatlas_ingester_gaps_total", { cause: "behind" })).toBe(1);
  });

  it("hands an endpoint of a silent ingester to another, and refuses the silent one's writes", async () => {
    const server = await redis();
    const store = storeOn(server.port);
    const stalling = pausable(storeOn(server.port));
    const publisher = await publisherWith();
    const first = await ingest(publisher, stalling);
    await caughtUp(first);
    const prompt = new TestPrompt(1, 4);
    await publisher.publish([prompt.stored(0, 3), prompt.stored(2, 3)]);
    await expectHeld(store, prompt, [1, 1, 2, 0]);
    stalling.pause();
    await publisher.publish([prompt.removed(2)]);
    const second = await ingest(publisher, store, {}, "b");
    await expectHeld(store, prompt, [1, 1, 1, 0]);
    stalling.resume();
    await eventually(() => expect([...first.ingester.owned()]).toEqual([]));
    await publisher.publish([prompt.stored(3, 4)]);
    await expectHeld(store, prompt, [1, 1, 1, 1]);
    expect(await second.metric("kvatlas_ingester_incarnations_total")).toBe(0);
  });
});

/** Block counts after the traffic of the overflow test: the first 60 blocks are stored and removed again 399 times. */
function oracle(prompt: TestPrompt): readonly number[] {
  const copies: number[] = prompt.keys.map((_, block) => (block === 0 ? 1 : 0));
  const change = (block: number, by: number): void => {
    copies[block] = Math.max(0, (copies[block] ?? 0) + by);
  };
  for (let block = 1; block < 400; block++) {
    change(block, 1);
    if (block % 3 === 0) change(block, -1);
    for (let i = 0; i < 60; i++) change(i, 1);
    for (let i = 0; i < 60; i++) change(i, -1);
  }
  return copies;
}
