import { createRedisBackend } from "@kvatlas/shared/backend";
import { configSchema } from "@kvatlas/shared/config/schema";
import { createBlockHasher } from "@kvatlas/shared/hashing/block-hasher";
import { silentLogger } from "@kvatlas/shared/logger";
import { Redis } from "ioredis";
import { afterEach, describe, expect, it } from "vitest";
import { eventually } from "../support/eventually.ts";
import type { FakeEngine } from "../support/fake-engine.ts";
import { IngestBed } from "../support/ingest-bed.ts";
import { blockSize, poolOf, recordOf, TestPrompt, wireHash } from "../support/ingest-rig.ts";
import { testRedisUrl, uniqueKeyPrefix } from "../support/redis.ts";
import type { TestPublisher } from "../support/test-publisher.ts";

/* Replay buffers that have rolled past every store from the root of a prompt, into a real Redis. Found by random schedules of faults (seeds 20025, 40000). */

let bed: IngestBed;
let keyPrefix: string;

function openBed(): void {
  keyPrefix = uniqueKeyPrefix();
  const { redis } = configSchema.parse({ redis: { url: testRedisUrl(), keyPrefix } });
  const backend = createRedisBackend(redis, "background", silentLogger);
  bed = new IngestBed(backend);
  bed.onClose(async () => backend.close());
}

afterEach(() => bed.close());

async function emptyRedis(): Promise<void> {
  const redis = new Redis(testRedisUrl());
  try {
    const keys = await redis.keys(`*${keyPrefix}*`);
    if (keys.length > 0) await redis.del(keys);
  } finally {
    redis.disconnect();
  }
}

const metrics = (algorithm: string): object => ({
  "/metrics": `process_start_time_seconds 1790000000\nvllm:cache_config_info{block_size="${blockSize}",prefix_caching_hash_algo="${algorithm}",engine="0"} 1.0\n`,
});

interface Replica {
  readonly engine: FakeEngine;
  readonly publisher: TestPublisher;
  readonly address: string;
}

/** A replica whose replay buffer holds the last two batches only. */
async function replica(algorithm = "sha256_cbor"): Promise<Replica> {
  const [engine, publisher] = [await bed.engine({ ...metrics(algorithm) }), await bed.publisher({ bufferSteps: 2 })];
  return { engine, publisher, address: engine.address };
}

/** Publishes a prompt of four blocks of which nobody hears, and of which two stores that go on from a parent are left. */
async function rollPast(publisher: TestPublisher, prompt: TestPrompt): Promise<void> {
  await publisher.publish([prompt.stored(0, 2)], { lose: true });
  await publisher.publish([prompt.stored(2, 3)], { lose: true });
  await publisher.publish([prompt.stored(3, 4)], { lose: true });
}

describe("a replay buffer that has no store from the root any more", () => {
  it("is brought in under the scheme of its pool, where the engine names the same algorithm", async () => {
    openBed();
    const [a, b] = [await replica(), await replica()];
    const [known, rolled] = [new TestPrompt(1, 2), new TestPrompt(2, 4)];
    await a.publisher.publish([known.stored()]);
    await rollPast(b.publisher, rolled);
    await bed.ingester([poolOf([a, b])]);
    await bed.expectHeld(a.address, known, [1, 1]);
    await bed.expectHeld(b.address, rolled, [0, 0, 1, 1]);
    const scopes = await Promise.all([a, b].map(async ({ address }) => (await recordOf(bed.store, address))?.meta.scope));
    expect(scopes[0]).toBe(scopes[1]);
    // The next store from the root says the same.
    const next = new TestPrompt(3, 2);
    await b.publisher.publish([next.stored()]);
    await bed.expectHeld(b.address, next, [1, 1]);
    await bed.expectHeld(b.address, rolled, [0, 0, 1, 1]);
  });

  it("is not taken for what its pool is where the engine names another algorithm", async () => {
    openBed();
    const [a, b] = [await replica(), await replica("sha256")];
    const [known, rolled] = [new TestPrompt(1, 2), new TestPrompt(2, 4)];
    await a.publisher.publish([known.stored()]);
    await rollPast(b.publisher, rolled);
    const rig = await bed.ingester([poolOf([a, b])]);
    await bed.expectHeld(a.address, known, [1, 1]);
    await eventually(async () => expect(await rig.metric("kvatlas_ingester_replayed_batches_total")).toBeGreaterThanOrEqual(3));
    expect((await recordOf(bed.store, b.address))?.meta.scope ?? null).toBeNull();
  });

  it("and was taken for another than it is: the next store from the root says so, and it is built anew", async () => {
    openBed();
    const [a, b] = [await replica(), await replica()];
    const [known, rolled] = [new TestPrompt(1, 2), new TestPrompt(2, 4)];
    await a.publisher.publish([known.stored()]);
    await rollPast(b.publisher, rolled);
    const rig = await bed.ingester([poolOf([a, b])]);
    await bed.expectHeld(b.address, rolled, [0, 0, 1, 1]);
    const tokens = Array.from({ length: blockSize }, (_, i) => 9_000 + i);
    const scheme = { kind: "native", algorithm: "sha256_cbor", seed: "0" } as const;
    const { keys } = createBlockHasher({ scheme, blockSizeTokens: blockSize, model: "m" }).chain(tokens);
    const hashes = keys.map(wireHash);
    await b.publisher.publish([rolled.stored(0, 1, { block_hashes: hashes, token_ids: tokens })]);
    await bed.expectHeld(b.address, keys, [1]);
    const record = await recordOf(bed.store, b.address);
    expect(record?.meta.scope).toBe("m.b4.sha256_cbor.s0");
    // The block is there as soon as it is known whose it is; what was written before is thrown away after that.
    await eventually(async () => expect(await rig.metric("kvatlas_ingester_incarnations_total", { cause: "scheme" })).toBe(1));
    // What the buffer still has.
    await bed.expectHeld(b.address, rolled, [0, 0, 0, 1]);
  });

  it("is brought in as what the same engine was before Redis lost everything, whoever else there is", async () => {
    openBed();
    const a = await replica("blake3");
    const prompt = new TestPrompt(1, 4);
    await bed.ingester([poolOf([a])]);
    await eventually(() => expect(a.publisher.subscribers).toBeGreaterThan(0));
    await a.publisher.publish([prompt.stored(0, 2)]);
    await bed.expectHeld(a.address, prompt, [1, 1, 0, 0]);
    await a.publisher.publish([prompt.stored(2, 3)]);
    await a.publisher.publish([prompt.stored(3, 4)]);
    await bed.expectHeld(a.address, prompt, [1, 1, 1, 1]);
    await eventually(async () => expect((await recordOf(bed.store, a.address))?.meta.processStartSeconds).toBe(1_790_000_000));
    await emptyRedis();
    await bed.expectHeld(a.address, prompt, [0, 0, 1, 1]);
  });

  it("waits where nothing says how the engine hashes, and all of it comes in when something does", async () => {
    openBed();
    const a = await replica();
    const [rolled, next] = [new TestPrompt(1, 4), new TestPrompt(2, 1)];
    await rollPast(a.publisher, rolled);
    const rig = await bed.ingester([poolOf([a])]);
    await eventually(async () => expect(await rig.metric("kvatlas_ingester_replayed_batches_total")).toBe(2));
    expect((await recordOf(bed.store, a.address))?.meta.scope ?? null).toBeNull();
    await a.publisher.publish([next.stored()]);
    await bed.expectHeld(a.address, [...rolled.keys, ...next.keys], [0, 0, 1, 1, 1]);
  });
});
