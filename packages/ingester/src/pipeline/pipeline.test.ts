import { FakeClock } from "@kvatlas/shared/clock";
import { KvatlasError } from "@kvatlas/shared/errors";
import type { BlockRemoved, BlockStored, KvEvent } from "@kvatlas/shared/events/events";
import { storedEvent } from "@kvatlas/shared/events/stored-event.fixture";
import type { ApplyResult, IndexWriter, SequencedOps } from "@kvatlas/shared/index/block-index";
import { MemoryBlockIndex } from "@kvatlas/shared/index/memory-block-index";
import { silentLogger } from "@kvatlas/shared/logger";
import { createMetricsRegistry } from "@kvatlas/shared/metrics";
import type { BlockKey, EndpointId, EngineHash, ScopeId } from "@kvatlas/shared/types";
import { describe, expect, it } from "vitest";
import { createIngesterMetrics } from "../metrics.ts";
import { ContentTranslator } from "./content-translator.ts";
import { GroupCatalog, groupKindOf } from "./group-catalog.ts";
import { HeldBatches } from "./held-batches.ts";
import { IndexFeed } from "./index-feed.ts";
import { countEachStore, nativeTranslator } from "./key-translator.ts";
import { SkipLog } from "./skip-log.ts";

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
    const ops = nativeTranslator.translate(0, [
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
      return { applied: 1, duplicates: 0, unknownRemovals: 0 };
    }

    async keysOf(): Promise<never[]> {
      return [];
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
    const written: number[] = [];
    const options = {
      maxBatchOps: 10,
      flushIntervalMs: 2,
      signal,
      onFailure: () => failed.count++,
      onWritten: (seq: number) => written.push(seq),
    };
    return { clock, failed, written, feed: new IndexFeed({ clock, logger: silentLogger, metrics: testMetrics() }, options, writer) };
  }

  it("groups batches up to its bound, and says when a waiting group is due", async () => {
    const writer = new ScriptedWriter();
    const { feed, clock, written } = feedOf(writer);
    expect(feed.dueAt).toBe(clock.monotonic() + 2_000);
    expect(feed.add(batch(0, 4))).toBeUndefined();
    expect(feed.dueAt).toBe(clock.monotonic() + 2);
    expect(feed.add(batch(1, 4))).toBeUndefined();
    await feed.add(batch(2, 4));
    expect(feed.dueAt).toBe(clock.monotonic() + 2_000);
    feed.add(batch(3));
    await feed.flush();
    expect(writer.calls).toEqual([[0, 1, 2], [3]]);
    expect(written).toEqual([2, 3]);
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
  const target = { scope: "s" as ScopeId, endpoint: "e" as EndpointId, incarnation: 1, from: 0, fence: 1 };

  /** One owner of an endpoint whose blocks are in `index`; `reads` counts how often it asks for names. */
  async function translatorOn(
    index = new MemoryBlockIndex(),
    clock = new FakeClock(),
    chainGroup = 0,
    { isNameless = false }: { readonly isNameless?: boolean } = {},
  ) {
    const writer = await index.openWriter(target);
    const metrics = testMetrics();
    const reads: number[] = [];
    const translator = new ContentTranslator(
      {
        keysOf: (names) => {
          reads.push(names.length);
          return writer.keysOf(names);
        },
        clock,
        skips: new SkipLog({ metrics, clock, logger: silentLogger }),
        storeOp: countEachStore,
      },
      { model: "m", seed: "", blockSizeTokens: 2, chainGroup: () => chainGroup, isNameless },
    );
    const skipped = async (reason: string) =>
      (await metrics.skipped.get()).values.filter(({ labels }) => labels.reason === reason).reduce((sum, { value }) => sum + value, 0);
    let seq = writer.applied;
    const underWay: SequencedOps[] = [];
    /** Operations of the next batch, which is not in the index before `write`. */
    const translate = async (events: readonly KvEvent[]) => {
      const ops = await translator.translate(++seq, events);
      underWay.push({ seq, ops });
      return ops;
    };
    const write = async () => {
      const result = await writer.apply(underWay.splice(0));
      translator.written(seq);
      return result;
    };
    return { translator, translate, write, skipped, clock, reads };
  }

  it("reads no names where there are none but its own, whether they are in the index yet or not", async () => {
    const index = new MemoryBlockIndex();
    const { translate, write, reads } = await translatorOn(index, new FakeClock(), 0, { isNameless: true });
    for (let n = 1; n <= 50; n++) {
      await translate([stored([n], n === 1 ? null : n - 1), removed([1_000 + n])]);
      if (n % 7 === 0) await write();
    }
    await write();
    expect(reads).toEqual([]);
    // The next owner knows nothing, and finds all of it.
    const next = await translatorOn(index);
    const [op] = await next.translate([stored([51], 50)]);
    expect(op?.keys).toHaveLength(1);
    expect(next.reads).toEqual([1]);
  });

  it("finds what has been pushed out of memory on its way into the index, and what is there", async () => {
    const { translate, write, reads } = await translatorOn(new MemoryBlockIndex(), new FakeClock(), 0, { isNameless: true });
    await translate([stored([1, 2, 3], null)]);
    const others = Array.from({ length: 70_000 }, (_, i) => 10 + i);
    await translate([stored(others, null)]);
    expect((await translate([removed([3])]))[0]?.keys).toHaveLength(1);
    expect(reads).toEqual([]);
    expect((await write()).unknownRemovals).toBe(0);
    expect((await translate([removed([2])]))[0]?.keys).toHaveLength(1);
    expect(reads).toEqual([1]);
    expect((await write()).unknownRemovals).toBe(0);
  });

  it("asks the index again when the store has come back with older data: what was removed since may have to be removed once more", async () => {
    const index = new MemoryBlockIndex();
    const { translator, translate, write } = await translatorOn(index, new FakeClock(), 0, { isNameless: true });
    await translate([stored([1], null)]);
    await write();
    translator.rewind();
    const removal = await translate([removed([1])]);
    expect(removal).toHaveLength(1);
    translator.rewind();
    expect(await translate([removed([1])])).toEqual(removal);
  });

  it("gives the same keys whether a chain comes in one store or two, and finds them again for removals", async () => {
    const { translate } = await translatorOn();
    const [whole] = await translate([stored([1, 2, 3], null)]);
    const [head] = await translate([stored([1], null)]);
    const [tail] = await translate([stored([2, 3], 1)]);
    expect([...(head?.keys ?? []), ...(tail?.keys ?? [])]).toEqual(whole?.keys);
    expect(await translate([removed([2])])).toEqual([{ op: "remove", medium: "gpu", group: 0, keys: [whole?.keys[1]], names: [hash(2)] }]);
  });

  it("a later owner goes on with what the index knows", async () => {
    const index = new MemoryBlockIndex();
    const first = await translatorOn(index);
    const [ops] = await first.translate([stored([1, 2], null)]);
    await first.write();
    const second = await translatorOn(index);
    expect(await second.translate([removed([2])])).toEqual([
      { op: "remove", medium: "gpu", group: 0, keys: [ops?.keys[1]], names: [hash(2)] },
    ]);
  });

  it("names a block again each time it is stored: its name may have gone with it meanwhile", async () => {
    const index = new MemoryBlockIndex();
    const { translate, write } = await translatorOn(index, new FakeClock(), 0, { isNameless: true });
    await translate([stored([1], null)]);
    await translate([removed([1])]);
    await write();
    const [offloaded] = await translate([stored([1], null, { tokenIds: [], medium: "cpu" })]);
    expect(offloaded?.names).toEqual([hash(1)]);
    await write();
    const next = await translatorOn(index);
    await next.translate([removed([1], { medium: "cpu" })]);
    expect((await next.write()).unknownRemovals).toBe(0);
  });

  it("holds a store until its parent comes, without what was removed meanwhile", async () => {
    const { translate, skipped } = await translatorOn();
    expect(await translate([stored([2, 3], 1)])).toEqual([]);
    expect(await translate([stored([4], 3)])).toEqual([]);
    expect(await translate([removed([3])])).toEqual([]);
    const ops = await translate([stored([1], null)]);
    expect(ops.flatMap(({ keys }) => keys).length).toBe(3);
    expect(await skipped("unknown parent")).toBe(0);
  });

  it("gives a store up whose parent does not come, and bounds how many wait", async () => {
    const { translate, skipped, clock } = await translatorOn();
    for (let i = 0; i < 1_100; i++) await translate([stored([10_000 + i], 5_000 + i)]);
    expect(await skipped("unknown parent")).toBe(1_100 - 1_024);
    clock.advance(11_000);
    await translate([]);
    expect(await skipped("unknown parent")).toBe(1_100);
  });

  it("finds the keys of a hybrid model's masked stores by the hashes that the full-attention group has described", async () => {
    const index = new MemoryBlockIndex();
    const { translate, write, skipped } = await translatorOn(index, new FakeClock(), 1);
    const tokenIds = [1, 2, 2, 3, 3, 4];
    // The sliding group comes first in the batch; its first two blocks are masked, and only their tokens are there.
    const [masked, full] = await translate([stored([3], null, { tokenIds }), stored([1, 2, 3], null, { tokenIds, group: 1 })]);
    expect(masked).toEqual({ op: "store", medium: "gpu", group: 0, keys: [full?.keys[2]], names: [hash(3)] });
    const [further] = await translate([stored([4], 3), stored([4], 3, { group: 1 })]);
    // Another owner goes on with the names of both groups.
    await write();
    const second = await translatorOn(index, new FakeClock(), 1);
    const ops = await second.translate([stored([4], 2, { tokenIds: [3, 4, 4, 5] }), removed([3]), removed([4], { group: 1 })]);
    expect(ops).toEqual([
      { op: "store", medium: "gpu", group: 0, keys: further?.keys, names: [hash(4)] },
      { op: "remove", medium: "gpu", group: 0, keys: [full?.keys[2]], names: [hash(3)] },
      { op: "remove", medium: "gpu", group: 1, keys: further?.keys, names: [hash(4)] },
    ]);
    // Nobody has described it.
    expect(await second.translate([stored([9], null, { tokenIds })])).toEqual([]);
    expect(await second.skipped("tokens do not pair with hashes")).toBe(1);
    expect(await skipped("tokens do not pair with hashes")).toBe(0);
  });

  it("counts what it cannot place", async () => {
    const { translate, skipped } = await translatorOn();
    expect(await translate([removed([1]), stored([2], null, { tokenIds: [] }), stored([3, 4], null, { tokenIds: [1, 2] })])).toEqual([]);
    expect(await skipped("removal of an unknown block")).toBe(1);
    expect(await skipped("hash-only store of an unknown block")).toBe(1);
    expect(await skipped("tokens do not pair with hashes")).toBe(2);
  });
});
