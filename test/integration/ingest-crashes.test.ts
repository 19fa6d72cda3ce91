import { createIngesterMetrics } from "@kvatlas/ingester/metrics";
import { EndpointSession } from "@kvatlas/ingester/pipeline/endpoint-session";
import { FleetSchemes } from "@kvatlas/ingester/pipeline/fleet-schemes";
import { FrameQueue } from "@kvatlas/ingester/subscriber/frame-queue";
import { createRedisBackend } from "@kvatlas/shared/backend";
import { systemClock } from "@kvatlas/shared/clock";
import { configSchema } from "@kvatlas/shared/config/schema";
import { silentLogger } from "@kvatlas/shared/logger";
import { createMetricsRegistry } from "@kvatlas/shared/metrics";
import type { EndpointId } from "@kvatlas/shared/types";
import { decode, encode } from "@msgpack/msgpack";
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
      schemes: new FleetSchemes({ registry: store.registry, clock: systemClock }),
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

/** The same stream from an engine whose hashes nobody can reproduce: each hash is another one, and tokens say what it means. */
function withOwnHashes(batches: ReadonlyMap<number, Uint8Array>): Map<number, Uint8Array> {
  return new Map(
    [...batches].map(([seq, payload]) => [seq, encode(renamed(decode(payload, { useBigInt64: true })), { useBigInt64: true })]),
  );
}

function renamed(value: unknown, isHash = false): unknown {
  if (isHash && (typeof value === "bigint" || typeof value === "number")) return BigInt.asIntN(64, BigInt(value) ^ 0x5a5a_5a5a_5a5a_5a5an);
  if (isHash && value instanceof Uint8Array) return value.map((byte) => byte ^ 0x5a);
  if (Array.isArray(value)) {
    // Arrays of events: hashes, and for stores the parent, follow the tag.
    const hashes = value[0] === "BlockStored" ? [1, 2] : value[0] === "BlockRemoved" ? [1] : [];
    return value.map((each, i) => renamed(each, isHash || hashes.includes(i)));
  }
  if (typeof value !== "object" || value === null || value instanceof Uint8Array) return value;
  return Object.fromEntries(
    Object.entries(value).map(([name, each]) => [name, renamed(each, name === "block_hashes" || name === "parent_block_hash")]),
  );
}

/** What SGLang sends: arrays of 0.10, signed first eight bytes of hashes of its own making, sessions that grow and are evicted from their ends. */
function sglangStream(): Map<number, Uint8Array> {
  const own = (session: number, block: number): bigint => -(BigInt(session * 100 + block + 1) << 40n) - 1n;
  const batches = new Map<number, Uint8Array>();
  const publish = (...events: readonly unknown[]) =>
    void batches.set(batches.size, encode([1_790_000_000 + batches.size, events, 0], { useBigInt64: true }));
  for (let session = 0; session < 9; session++) {
    const tokens = (from: number, to: number) => Array.from({ length: (to - from) * 16 }, (_, i) => session * 10_000 + from * 16 + i);
    publish(["BlockStored", [own(session, 0), own(session, 1)], null, tokens(0, 2), 16, null]);
    publish(["BlockStored", [own(session, 2), own(session, 3)], own(session, 1), tokens(2, 4), 16, null]);
    if (session >= 4) publish(["BlockRemoved", [own(session - 4, 3)]], ["BlockRemoved", [own(session - 4, 2)]]);
    if (session % 5 === 4)
      publish(["BlockStored", [own(session - 4, 2)], own(session - 4, 1), tokens(2, 3).map((id) => id - 40_000), 16, null]);
  }
  return batches;
}

const keyedByContent = [
  { name: "an SGLang publisher", batches: sglangStream() },
  ...["v0.32-hybrid-gemma3-b32.jsonl", "v0.22.1-array-b16.jsonl"].flatMap((file) =>
    streams
      .filter(({ name }) => name.startsWith(file))
      .slice(0, 1)
      .map(({ name, batches }) => ({ name: `${name} with hashes of its own`, batches: withOwnHashes(batches) })),
  ),
];

describe("owners that die at every batch of a stream that is keyed by content", () => {
  it.each(keyedByContent)("$name: each goes on with the table of the one before", async ({ batches }) => {
    const { store, undisturbed } = await ingestedBothWays(batches);
    const content = await contentOf(store);
    expect(content).toEqual(await contentOf(undisturbed));
    expect(content.length).toBeGreaterThan(0);
    for (const { scheme } of (await store.registry.scopes()).values()) expect(scheme.kind).toBe("content");
  });
});

describe("a hybrid model's stream", () => {
  it("has as many blocks in each of its groups by content as by the engine's own hashes", async () => {
    const hybrid = streams.find(({ name }) => name.startsWith("v0.32-hybrid-gemma3-b32.jsonl"));
    if (hybrid === undefined) throw new Error("there is such a recording");
    const perGroup = async (batches: ReadonlyMap<number, Uint8Array>) => {
      const store = freshStore();
      await ingestWhole(store, batches);
      const groups = new Map<string, number>();
      for (const entry of await contentOf(store)) {
        const group = /#(\d+) /.exec(entry)?.[1] ?? "";
        groups.set(group, (groups.get(group) ?? 0) + 1);
      }
      return groups;
    };
    expect(await perGroup(withOwnHashes(hybrid.batches))).toEqual(await perGroup(hybrid.batches));
  });
});

async function ingestWhole(store: TestStore, batches: ReadonlyMap<number, Uint8Array>): Promise<void> {
  const whole = await bufferOnly();
  for (let seq = 0; seq <= Math.max(...batches.keys()); seq++) await append(whole, batches.get(seq));
  const survivor = await nextOwner(store, whole);
  await caughtUp(survivor);
  await survivor.close(10_000);
}

/** The same stream by one owner, and by owners of which each dies after a batch. */
async function ingestedBothWays(
  batches: ReadonlyMap<number, Uint8Array>,
): Promise<{ readonly undisturbed: TestStore; readonly store: TestStore }> {
  const [undisturbed, store] = [freshStore(), freshStore()];
  await ingestWhole(undisturbed, batches);
  const growing = await bufferOnly();
  for (let seq = 0; seq <= Math.max(...batches.keys()); seq++) {
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
  return { undisturbed, store };
}

describe("owners that die at every batch", () => {
  it.each(streams)("$name: the index is the same as if nobody had died", async ({ batches }) => {
    const { undisturbed, store } = await ingestedBothWays(batches);
    expect(await contentOf(store)).toEqual(await contentOf(undisturbed));
    expect((await contentOf(store)).length).toBeGreaterThan(0);
  });
});
