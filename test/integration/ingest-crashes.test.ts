import { createIngesterMetrics } from "@kvatlas/ingester/metrics";
import { EndpointSession } from "@kvatlas/ingester/pipeline/endpoint-session";
import { FrameQueue } from "@kvatlas/ingester/subscriber/frame-queue";
import { createRedisBackend } from "@kvatlas/shared/backend";
import { systemClock } from "@kvatlas/shared/clock";
import { configSchema } from "@kvatlas/shared/config/schema";
import { silentLogger } from "@kvatlas/shared/logger";
import { createMetricsRegistry } from "@kvatlas/shared/metrics";
import type { EndpointId } from "@kvatlas/shared/types";
import { afterEach, describe, expect, it } from "vitest";
import { eventually } from "../support/eventually.ts";
import { poolOf, recordOf, type TestStore, testConfig } from "../support/ingest-rig.ts";
import { mergedStreams, readRecording, recordingFiles } from "../support/recordings.ts";
import { testRedisUrl, uniqueKeyPrefix } from "../support/redis.ts";
import { TestPublisher } from "../support/test-publisher.ts";

/* What recorded engines said, through the real pipeline into a real Redis, by owners that die one after another: the index must not show it. */

const address = "127.0.0.1:1";
const endpoint = address as EndpointId;
const cleanups: (() => Promise<unknown>)[] = [];

afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

const streams = recordingFiles().flatMap((file) =>
  [...mergedStreams(readRecording(file))].map(([stream, frames]) => ({
    name: `${file} ${stream}`,
    batches: new Map(frames.map(({ seq, payload }) => [Number(seq), payload])),
  })),
);

/** A publisher whose live messages nobody gets: everything is replayed. */
async function bufferOnly(): Promise<TestPublisher> {
  const publisher = await TestPublisher.start();
  cleanups.push(() => publisher.close());
  return publisher;
}

async function append(publisher: TestPublisher, payload: Uint8Array | undefined): Promise<void> {
  await publisher.publishRaw(payload ?? new Uint8Array(0), payload === undefined ? { vanish: true } : { lose: true });
}

function freshStore(): TestStore {
  const { redis } = configSchema.parse({ redis: { url: testRedisUrl(), keyPrefix: uniqueKeyPrefix() } });
  const backend = createRedisBackend(redis, "background", silentLogger);
  cleanups.push(() => backend.close());
  return backend;
}

/** The next owner of the endpoint. Group and part sizes are small, so that a batch takes several script calls. */
async function nextOwner(store: TestStore, publisher: TestPublisher): Promise<EndpointSession> {
  const config = testConfig([poolOf([{ address, publisher }], { onGap: "keep" })], { maxBatchOps: 3, flushIntervalMs: 0 });
  const [pool] = config.pools;
  // Its own former lease is taken again at once, with a higher fence: waiting for it to age would change nothing.
  const lease = await store.registry.acquire(endpoint, "owner", 60_000);
  if (lease === null || pool === undefined) throw new Error("there is a pool, and nobody else has the lease");
  const session = new EndpointSession(
    {
      ...store,
      clock: systemClock,
      logger: silentLogger,
      metrics: createIngesterMetrics(createMetricsRegistry("ingester", { processMetrics: false })),
      replayAddress: async () => publisher.replay,
    },
    config.ingester,
    {
      target: { endpoint, address, rank: 0, pool, model: "m", events: publisher.events, replay: publisher.replay },
      lease,
      stored: (await recordOf(store, address))?.meta ?? null,
      queue: new FrameQueue(config.ingester.maxQueuedBytes),
    },
  );
  void session.start();
  return session;
}

async function caughtUp(session: EndpointSession): Promise<void> {
  session.connected();
  await eventually(() => expect(session.isCaughtUp).toBe(true));
}

/** Every live entry: scope, key, medium and group with its copies. */
async function contentOf(store: TestStore): Promise<readonly string[]> {
  const entries: string[] = [];
  for (const scope of (await store.registry.scopes()).keys()) {
    for (let cursor: string | null = "0"; cursor !== null; ) {
      const slice: Awaited<ReturnType<typeof store.index.walk>> = await store.index.walk(scope, cursor, 1_000);
      for (const { key, holders } of slice.blocks) {
        for (const holder of holders) if (holder.live) entries.push(`${scope} ${key}#${holder.group} ${JSON.stringify(holder.copies)}`);
      }
      cursor = slice.next;
    }
  }
  return [...new Set(entries)].sort();
}

describe("owners that die at every batch", () => {
  it.each(streams)("$name: the index is the same as if nobody had died", async ({ batches }) => {
    const last = Math.max(...batches.keys());
    const [undisturbed, store] = [freshStore(), freshStore()];
    const [whole, growing] = [await bufferOnly(), await bufferOnly()];
    for (let seq = 0; seq <= last; seq++) await append(whole, batches.get(seq));
    const survivor = await nextOwner(undisturbed, whole);
    await caughtUp(survivor);
    await survivor.close(10_000);
    for (let seq = 0; seq <= last; seq++) {
      await append(growing, batches.get(seq));
      const session = await nextOwner(store, growing);
      // Some die with the lease just taken, some in the middle of writing, some when all is written and described.
      if (seq % 4 > 0) await caughtUp(session);
      if (seq % 4 > 1) {
        await session.heartbeat();
        await session.heartbeat();
      }
      await session.abandon();
    }
    const final = await nextOwner(store, growing);
    await caughtUp(final);
    await final.close(10_000);
    expect(await contentOf(store)).toEqual(await contentOf(undisturbed));
    expect((await contentOf(store)).length).toBeGreaterThan(0);
  });
});
