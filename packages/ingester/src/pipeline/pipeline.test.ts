import { FakeClock } from "@kvatlas/shared/clock";
import { KvatlasError } from "@kvatlas/shared/errors";
import type { BlockRemoved, BlockStored } from "@kvatlas/shared/events/events";
import type { ApplyResult, IndexWriter, SequencedOps } from "@kvatlas/shared/index/block-index";
import { silentLogger } from "@kvatlas/shared/logger";
import { createMetricsRegistry } from "@kvatlas/shared/metrics";
import { MemoryEndpointRegistry } from "@kvatlas/shared/registry/memory-endpoint-registry";
import type { BlockKey, EndpointId, EngineHash, ScopeId } from "@kvatlas/shared/types";
import { describe, expect, it } from "vitest";
import { createIngesterMetrics } from "../metrics.ts";
import { ContentTranslator, type ContentTranslatorDeps } from "./content-translator.ts";
import { GroupCatalog, groupKindOf } from "./group-catalog.ts";
import { HeldBatches } from "./held-batches.ts";
import { IndexFeed } from "./index-feed.ts";
import { countEachStore, nativeTranslator } from "./key-translator.ts";
import { ProcessStartWatch } from "./process-start-watch.ts";
import { SkipLog } from "./skip-log.ts";
import { storedEvent } from "./stored-event.fixture.ts";

const hash = (n: number): EngineHash => n.toString(16).padStart(16, "0") as EngineHash;
const stored = (hashes: readonly number[], parent: number | null, more: Partial<BlockStored> = {}): BlockStored =>
  storedEvent(
    { hashes: hashes.map(hash), parent: parent === null ? null : hash(parent), tokenIds: hashes.flatMap((n) => [n, n + 1]) },
    more,
  );
const removed = (hashes: readonly number[], more: Partial<BlockRemoved> = {}): BlockRemoved => ({
  kind: "removed",
  hashes: hashes.map(hash),
  medium: "gpu",
  group: 0,
  ...more,
});
const testMetrics = () => createIngesterMetrics(createMetricsRegistry("test", { processMetrics: false }));

describe("nativeTranslator", () => {
  it("keeps the order and joins neighbours that differ in their keys only", () => {
    const first = stored([1, 2], null);
    const ops = nativeTranslator.translate([
      removed([9]),
      removed([8]),
      removed([7], { medium: "cpu" }),
      first,
      stored([3], 2),
      stored([], 3),
      removed([1]),
    ]);
    expect(ops).toEqual([
      { op: "remove", medium: "gpu", group: 0, keys: [hash(9), hash(8)] },
      { op: "remove", medium: "cpu", group: 0, keys: [hash(7)] },
      { op: "store", medium: "gpu", group: 0, keys: [hash(1), hash(2), hash(3)] },
      { op: "remove", medium: "gpu", group: 0, keys: [hash(1)] },
    ]);
    expect(first.hashes).toEqual([hash(1), hash(2)]);
  });
});

describe("GroupCatalog", () => {
  it.each([
    [null, null, "full"],
    ["full_attention", null, "full"],
    ["mla_attention", null, "full"],
    ["sink_full_attention", null, "full"],
    ["sliding_window", 512, "sliding"],
    ["sliding_window_mla", 512, "sliding"],
    ["sliding_window", null, "other"],
    ["chunked_local_attention", null, "other"],
    ["mamba", null, "other"],
    ["unknown", null, "other"],
  ] as const)("%s with window %s is %s", (kind, window, expected) => {
    expect(groupKindOf(kind, window)).toBe(expected);
  });

  it("learns from stores, once, and nothing from hash-only ones", () => {
    const catalog = new GroupCatalog();
    expect(catalog.learn(stored([1], null, { blockSizeTokens: 0 }))).toBe(false);
    expect(catalog.learn(stored([1], null, { group: 1, specKind: "sliding_window", slidingWindowTokens: 8 }))).toBe(true);
    expect(catalog.learn(stored([1], null, { group: 1, specKind: "sliding_window", slidingWindowTokens: 8 }))).toBe(false);
    expect(catalog.learn(stored([1], null, { group: 0, specKind: "full_attention" }))).toBe(true);
    expect(catalog.learn(stored([1], null, { group: 1 }))).toBe(false);
    expect(catalog.list()).toEqual([
      { id: 0, kind: "full", blockSizeTokens: 2, windowTokens: null },
      { id: 1, kind: "sliding", blockSizeTokens: 2, windowTokens: 8 },
    ]);
    for (let group = 2; group < 200; group++) catalog.learn(stored([1], null, { group }));
    expect(catalog.list().length).toBe(64);
  });
});

describe("HeldBatches", () => {
  it("lets the oldest go past its bound, and keeps one however large", () => {
    const held = new HeldBatches(100);
    const batch = (seq: number, bytes: number) => ({ seq, events: [removed([seq])], bytes, receivedAt: null });
    expect([held.push(batch(1, 60)), held.push(batch(2, 60)), held.push(batch(3, 500))]).toEqual([0, 1, 1]);
    expect([held.shift()?.seq, held.shift()]).toEqual([3, undefined]);
  });
});

describe("ProcessStartWatch", () => {
  it("tells a restart from its echo", () => {
    const clock = new FakeClock();
    const watch = new ProcessStartWatch(clock, null);
    const sees = (start: number | null) => watch.sees(start, clock.monotonic());
    expect([sees(null), sees(10), sees(10)]).toEqual([false, false, false]);
    expect(sees(20)).toBe(true);
    watch.restartSeen();
    expect([sees(20), sees(30), sees(40)]).toEqual([false, false, true]);
    watch.restartSeen();
    clock.advance(200_000);
    expect(sees(50)).toBe(true);
    expect(watch.known).toBe(50);
  });
});

describe("IndexFeed", () => {
  class ScriptedWriter implements IndexWriter {
    readonly target = { scope: "s" as ScopeId, endpoint: "e" as EndpointId, incarnation: 1, from: 0, fence: 1 };
    applied = -1;
    verified = 0;
    readonly calls: number[][] = [];
    readonly failures: Error[] = [];

    async apply(batches: readonly SequencedOps[]): Promise<ApplyResult> {
      const failure = this.failures.shift();
      if (failure !== undefined) throw failure;
      this.calls.push(batches.map(({ seq }) => seq));
      this.applied = batches.at(-1)?.seq ?? this.applied;
      return { applied: 1, duplicates: 0, unknownRemovals: 0, emptied: [] };
    }

    async settle(): Promise<void> {}

    async verify(): Promise<void> {
      const failure = this.failures.shift();
      if (failure !== undefined) throw failure;
      this.verified++;
    }
  }
  const batch = (seq: number, keys = 1) => ({
    seq,
    receivedAt: null,
    ops: [
      {
        op: "store" as const,
        medium: "gpu" as const,
        group: 0,
        keys: Array.from({ length: keys }, (_, i) => hash(i) as string as BlockKey),
      },
    ],
  });
  function feedOf(writer: IndexWriter, signal = new AbortController().signal) {
    const clock = new FakeClock();
    const failed = { count: 0 };
    const options = { maxBatchOps: 10, flushIntervalMs: 2, signal, onFailure: () => failed.count++ };
    return { clock, failed, feed: new IndexFeed({ clock, logger: silentLogger, metrics: testMetrics() }, options, writer) };
  }

  it("groups batches up to its bound, and says when a waiting group is due", async () => {
    const writer = new ScriptedWriter();
    const { feed, clock } = feedOf(writer);
    expect(feed.dueAt).toBe(clock.monotonic() + 2_000);
    expect(feed.add(batch(0, 4))).toBeUndefined();
    expect(feed.dueAt).toBe(clock.monotonic() + 2);
    expect(feed.add(batch(1, 4))).toBeUndefined();
    await feed.add(batch(2, 4));
    expect(feed.dueAt).toBe(clock.monotonic() + 2_000);
    feed.add(batch(3));
    await feed.flush();
    expect(writer.calls).toEqual([[0, 1, 2], [3]]);
  });

  it("asks the store now and then whether it has lost something, when there is nothing to write", async () => {
    const writer = new ScriptedWriter();
    const { feed, clock } = feedOf(writer);
    clock.advance(1_500);
    feed.add(batch(0));
    await feed.flush();
    clock.advance(1_999);
    await feed.write();
    expect(writer.verified).toBe(0);
    clock.advance(1);
    writer.failures.push(new KvatlasError("KVATLAS_REDIS_UNAVAILABLE", "away"));
    await feed.write();
    expect(writer.verified).toBe(1);
    expect(feed.dueAt).toBe(clock.monotonic() + 2_000);
    clock.advance(2_000);
    writer.failures.push(new KvatlasError("KVATLAS_INDEX_BEHIND", "behind"));
    await expect(feed.write()).rejects.toMatchObject({ code: "KVATLAS_INDEX_BEHIND" });
  });

  it("repeats a call that the store did not answer", async () => {
    const writer = new ScriptedWriter();
    writer.failures.push(new KvatlasError("KVATLAS_REDIS_UNAVAILABLE", "away"), new KvatlasError("KVATLAS_REDIS_UNAVAILABLE", "away"));
    const { feed } = feedOf(writer);
    feed.add(batch(0));
    await feed.flush();
    expect(writer.calls).toEqual([[0]]);
  });

  it("surfaces a failed write at once and at the next call", async () => {
    const writer = new ScriptedWriter();
    writer.failures.push(new KvatlasError("KVATLAS_INDEX_BEHIND", "behind"));
    const { feed, failed } = feedOf(writer);
    feed.add(batch(0));
    await feed.write();
    await expect(feed.write()).rejects.toMatchObject({ code: "KVATLAS_INDEX_BEHIND" });
    expect(failed.count).toBe(1);
    feed.add(batch(0));
    await feed.flush();
    expect(writer.calls).toEqual([[0]]);
  });

  it("gives up waiting for the store when told to", async () => {
    const abort = new AbortController();
    const writer = new ScriptedWriter();
    writer.apply = () => new Promise(() => {});
    const { feed } = feedOf(writer, abort.signal);
    feed.add(batch(0));
    const flushed = feed.flush();
    abort.abort();
    await expect(flushed).rejects.toMatchObject({ code: "KVATLAS_REDIS_UNAVAILABLE" });
  });
});

describe("ContentTranslator", () => {
  const endpoint = "e" as EndpointId;

  async function translatorOn(
    registry: MemoryEndpointRegistry,
    clock = new FakeClock(),
    chainGroup = 0,
    {
      calls = registry,
      isTableEmpty = false,
    }: { readonly calls?: ContentTranslatorDeps["registry"]; readonly isTableEmpty?: boolean } = {},
  ) {
    const lease = await registry.acquire(endpoint, "o", 60_000);
    if (lease === null) throw new Error("nobody else holds it");
    const incarnation = (await registry.state(endpoint)).incarnation || ((await registry.startIncarnation(lease, 0)) ?? 0);
    const metrics = testMetrics();
    const translator = new ContentTranslator(
      {
        registry: calls,
        clock,
        skips: new SkipLog({ metrics, clock, logger: silentLogger }),
        storeOp: countEachStore,
        stored: (call) => call(),
      },
      { endpoint, incarnation, model: "m", seed: "", blockSizeTokens: 2, chainGroup: () => chainGroup, isTableEmpty },
    );
    const skipped = async (reason: string) =>
      (await metrics.skipped.get()).values.filter(({ labels }) => labels.reason === reason).reduce((sum, { value }) => sum + value, 0);
    return { translator, skipped, clock, incarnation };
  }

  it("writes its table once for all batches since the last time, and reads none that nobody else has written", async () => {
    const registry = new MemoryEndpointRegistry();
    const calls: string[] = [];
    const counted = {
      resolveEngineHashes: (...of: Parameters<typeof registry.resolveEngineHashes>) => {
        calls.push("read");
        return registry.resolveEngineHashes(...of);
      },
      saveEngineHashes: (...of: Parameters<typeof registry.saveEngineHashes>) => {
        calls.push(`write ${of[2].size}`);
        return registry.saveEngineHashes(...of);
      },
      dropEngineHashes: registry.dropEngineHashes.bind(registry),
    };
    const { translator } = await translatorOn(registry, new FakeClock(), 0, { calls: counted, isTableEmpty: true });
    for (let n = 1; n <= 50; n++) await translator.translate([stored([n], n === 1 ? null : n - 1), removed([1_000 + n])]);
    await translator.save();
    await translator.save();
    expect(calls).toEqual(["write 50"]);
    // The next owner knows nothing, and finds all of it.
    calls.length = 0;
    const next = await translatorOn(registry, new FakeClock(), 0, { calls: counted });
    const [op] = await next.translator.translate([stored([51], 50)]);
    expect(op?.keys).toHaveLength(1);
    expect(calls).toEqual(["read"]);
  });

  it("believes the table again when the store has come back with older data: what was dropped since may have to be removed once more", async () => {
    const registry = new MemoryEndpointRegistry();
    const { translator, incarnation } = await translatorOn(registry, new FakeClock(), 0, { isTableEmpty: true });
    const [ops] = await translator.translate([stored([1], null)]);
    const keys = ops?.keys ?? [];
    await translator.save();
    const removal = await translator.translate([removed([1])]);
    await translator.forget(keys);
    await registry.saveEngineHashes(endpoint, incarnation, new Map(keys.map((key) => [hash(1), key])));
    translator.rewind();
    expect(await translator.translate([removed([1])])).toEqual(removal);
  });

  it("gives the same keys whether a chain comes in one store or two, and finds them again for removals", async () => {
    const { translator } = await translatorOn(new MemoryEndpointRegistry());
    const [whole] = await translator.translate([stored([1, 2, 3], null)]);
    const [head] = await translator.translate([stored([1], null)]);
    const [tail] = await translator.translate([stored([2, 3], 1)]);
    expect([...(head?.keys ?? []), ...(tail?.keys ?? [])]).toEqual(whole?.keys);
    expect(await translator.translate([removed([2])])).toEqual([{ op: "remove", medium: "gpu", group: 0, keys: [whole?.keys[1]] }]);
  });

  it("a later owner goes on with the table", async () => {
    const registry = new MemoryEndpointRegistry();
    const first = await translatorOn(registry);
    const [ops] = await first.translator.translate([stored([1, 2], null)]);
    await first.translator.save();
    const second = await translatorOn(registry);
    expect(second.incarnation).toBe(first.incarnation);
    expect(await second.translator.translate([removed([2])])).toEqual([{ op: "remove", medium: "gpu", group: 0, keys: [ops?.keys[1]] }]);
  });

  it("drops a pair when its last copy is gone, unless the block has come back meanwhile", async () => {
    const registry = new MemoryEndpointRegistry();
    const { translator, incarnation } = await translatorOn(registry);
    const [ops] = await translator.translate([stored([1, 2], null)]);
    const keys = ops?.keys ?? [];
    await translator.translate([removed([1, 2])]);
    await translator.translate([stored([1], null)]);
    await translator.save();
    await translator.forget(keys);
    expect(await registry.resolveEngineHashes(endpoint, incarnation, [hash(1), hash(2)])).toEqual([keys[0], null]);
  });

  it("holds a store until its parent comes, without what was removed meanwhile", async () => {
    const { translator, skipped } = await translatorOn(new MemoryEndpointRegistry());
    expect(await translator.translate([stored([2, 3], 1)])).toEqual([]);
    expect(await translator.translate([stored([4], 3)])).toEqual([]);
    expect(await translator.translate([removed([3])])).toEqual([]);
    const ops = await translator.translate([stored([1], null)]);
    expect(ops.flatMap(({ keys }) => keys).length).toBe(3);
    expect(await skipped("unknown parent")).toBe(0);
  });

  it("gives a store up whose parent does not come, and bounds how many wait", async () => {
    const { translator, skipped, clock } = await translatorOn(new MemoryEndpointRegistry());
    for (let i = 0; i < 1_100; i++) await translator.translate([stored([10_000 + i], 5_000 + i)]);
    expect(await skipped("unknown parent")).toBe(1_100 - 1_024);
    clock.advance(11_000);
    await translator.translate([]);
    expect(await skipped("unknown parent")).toBe(1_100);
  });

  it("finds the keys of a hybrid model's masked stores by the hashes that the full-attention group has described", async () => {
    const registry = new MemoryEndpointRegistry();
    const { translator, skipped } = await translatorOn(registry, new FakeClock(), 1);
    const tokenIds = [1, 2, 2, 3, 3, 4];
    // The sliding group comes first in the batch; its first two blocks are masked, and only their tokens are there.
    const [masked, full] = await translator.translate([stored([3], null, { tokenIds }), stored([1, 2, 3], null, { tokenIds, group: 1 })]);
    expect(masked).toEqual({ op: "store", medium: "gpu", group: 0, keys: [full?.keys[2]] });
    const [further] = await translator.translate([stored([4], 3), stored([4], 3, { group: 1 })]);
    // Another owner goes on with both groups' part of the table.
    await translator.save();
    const second = await translatorOn(registry, new FakeClock(), 1);
    const ops = await second.translator.translate([stored([4], 2, { tokenIds: [3, 4, 4, 5] }), removed([3]), removed([4], { group: 1 })]);
    expect(ops).toEqual([
      { op: "store", medium: "gpu", group: 0, keys: further?.keys },
      { op: "remove", medium: "gpu", group: 0, keys: [full?.keys[2]] },
      { op: "remove", medium: "gpu", group: 1, keys: further?.keys },
    ]);
    // Nobody has described it.
    expect(await second.translator.translate([stored([9], null, { tokenIds })])).toEqual([]);
    expect(await second.skipped("tokens do not pair with hashes")).toBe(1);
    expect(await skipped("tokens do not pair with hashes")).toBe(0);
  });

  it("counts what it cannot place", async () => {
    const { translator, skipped } = await translatorOn(new MemoryEndpointRegistry());
    expect(
      await translator.translate([removed([1]), stored([2], null, { tokenIds: [] }), stored([3, 4], null, { tokenIds: [1, 2] })]),
    ).toEqual([]);
    expect(await skipped("removal of an unknown block")).toBe(1);
    expect(await skipped("hash-only store of an unknown block")).toBe(1);
    expect(await skipped("tokens do not pair with hashes")).toBe(2);
  });
});
