import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { isKvatlasError } from "../errors.ts";
import type { BlockKey, CacheGroup, EndpointId, EngineHash, Medium, ScopeId } from "../types.ts";
import type { BlockIndex, IndexOp, IndexWriter, PrefixMatches, PrefixQuery, WriterTarget } from "./block-index.ts";

const scope = "contract.b16" as ScopeId;
const a = "10.0.0.1:8000" as EndpointId;
const b = "10.0.0.2:8000/1" as EndpointId;

/** Keys of one chain. Spread over the whole range, so that every shard gets some. */
export function chainOf(name: number, blocks: number): BlockKey[] {
  return Array.from({ length: blocks }, (_, i) => {
    const mixed = Math.imul(i + 1, 0x9e3779b1) ^ Math.imul(name + 1, 0x85ebca6b);
    return ((mixed >>> 0).toString(16).padStart(8, "0") + name.toString(16).padStart(4, "0") + i.toString(16).padStart(4, "0")) as BlockKey;
  });
}

const store = (keys: readonly BlockKey[], medium: Medium = "gpu", group = 0): IndexOp => ({ op: "store", medium, group, keys });
const remove = (keys: readonly BlockKey[], medium: Medium = "gpu", group = 0): IndexOp => ({ op: "remove", medium, group, keys });
const target = (endpoint: EndpointId, over: Partial<WriterTarget> = {}): WriterTarget => ({
  scope,
  endpoint,
  incarnation: 1,
  from: 0,
  fence: 1,
  ...over,
});

/** The behaviour every BlockIndex shares, one `it` per sentence of its contract. `create` is called before each. */
export function blockIndexContract(create: () => Promise<BlockIndex>): void {
  let index: BlockIndex;
  const chain = chainOf(1, 40);
  beforeEach(async () => {
    index = await create();
  });
  afterEach(() => index.close());

  /** Looks one chain up by both methods, which must agree. */
  async function match(keys: readonly BlockKey[], groups?: PrefixQuery["groups"]): Promise<PrefixMatches> {
    const query: PrefixQuery = groups === undefined ? { scope, keys } : { scope, keys, groups };
    const [probe] = await index.lookup([query]);
    const [exact] = await index.lookup([query], { method: "exact" });
    expect(probe).toEqual(exact);
    return probe ?? new Map();
  }

  async function codeOf(promise: Promise<unknown>): Promise<string> {
    try {
      await promise;
    } catch (error) {
      if (isKvatlasError(error)) return error.code;
      throw error;
    }
    return "no error";
  }

  describe("lookup", () => {
    it("gives an empty map for a scope that nobody has written, and for no keys", async () => {
      const results = await index.lookup([
        { scope: "nobody.b16" as ScopeId, keys: chain },
        { scope, keys: [] },
      ]);
      expect(results).toEqual([new Map(), new Map()]);
      expect(await index.lookup([])).toEqual([]);
    });

    it("gives each endpoint the leading blocks it holds", async () => {
      const [writerA, writerB] = [await index.openWriter(target(a)), await index.openWriter(target(b))];
      await writerA.apply([{ seq: 0, ops: [store(chain)] }]);
      await writerB.apply([{ seq: 0, ops: [store(chain.slice(0, 13))] }]);
      expect(await match(chain)).toEqual(
        new Map([
          [a, { blocks: 40, byMedium: { gpu: 40 } }],
          [b, { blocks: 13, byMedium: { gpu: 13 } }],
        ]),
      );
    });

    it("finds every prefix length, for short and long chains", async () => {
      const writer = await index.openWriter(target(a));
      for (let blocks = 1; blocks <= chain.length; blocks += 1) {
        await writer.apply([{ seq: blocks, ops: [store(chain.slice(blocks - 1, blocks))] }]);
        for (const length of [blocks, chain.length]) {
          expect((await match(chain.slice(0, length))).get(a)?.blocks).toBe(blocks);
        }
      }
    });

    it("leaves out endpoints that lack the first block, whatever they hold after it", async () => {
      const writer = await index.openWriter(target(a));
      await writer.apply([{ seq: 0, ops: [store(chain.slice(1))] }]);
      expect(await match(chain)).toEqual(new Map());
    });

    it("stops at a hole when asked to be exact", async () => {
      const writer = await index.openWriter(target(a));
      await writer.apply([{ seq: 0, ops: [store([...chain.slice(0, 5), ...chain.slice(6)])] }]);
      const [matches] = await index.lookup([{ scope, keys: chain }], { method: "exact" });
      expect(matches?.get(a)?.blocks).toBe(5);
    });

    it("answers several queries in their order", async () => {
      const other = chainOf(2, 9);
      const writer = await index.openWriter(target(a));
      await writer.apply([{ seq: 0, ops: [store(chain.slice(0, 3)), store(other)] }]);
      const results = await index.lookup([
        { scope, keys: other },
        { scope, keys: chain },
      ]);
      expect(results.map((matches) => matches.get(a)?.blocks)).toEqual([9, 3]);
    });

    it("splits the prefix by the best medium of each block", async () => {
      const writer = await index.openWriter(target(a));
      await writer.apply([
        { seq: 0, ops: [store(chain.slice(0, 6), "gpu"), store(chain.slice(0, 20), "cpu"), store(chain.slice(0, 30), "storage")] },
        { seq: 1, ops: [store(chain.slice(0, 33), "other")] },
      ]);
      expect((await match(chain)).get(a)).toEqual({ blocks: 33, byMedium: { gpu: 6, cpu: 14, storage: 10, other: 3 } });
    });

    it("rejects with KVATLAS_DEADLINE_EXCEEDED when its signal has fired", async () => {
      expect(await codeOf(index.lookup([{ scope, keys: chain }], { signal: AbortSignal.abort() }))).toBe("KVATLAS_DEADLINE_EXCEEDED");
    });
  });

  describe("cache groups", () => {
    const full: CacheGroup = { id: 0, kind: "full", blockSizeTokens: 16, windowTokens: null };
    const sliding: CacheGroup = { id: 1, kind: "sliding", blockSizeTokens: 16, windowTokens: 49 };
    const other: CacheGroup = { id: 2, kind: "other", blockSizeTokens: 16, windowTokens: null };

    it("limit the prefix to where every sliding-window group holds its window", async () => {
      const writer = await index.openWriter(target(a));
      // Window of 49 tokens: three blocks. The window before 30 has a hole at 28, the one before 28 is whole.
      await writer.apply([
        { seq: 0, ops: [store(chain.slice(0, 30)), store(chain.slice(25, 28), "gpu", 1), store(chain.slice(29, 30), "gpu", 1)] },
      ]);
      expect((await match(chain, new Map([[a, [full, sliding]]]))).get(a)).toEqual({ blocks: 28, byMedium: { gpu: 28 } });
    });

    it("give no hit when no window is whole", async () => {
      const writer = await index.openWriter(target(a));
      await writer.apply([{ seq: 0, ops: [store(chain.slice(0, 30)), store([chain[9] as BlockKey, chain[20] as BlockKey], "gpu", 1)] }]);
      expect(await match(chain, new Map([[a, [full, sliding]]]))).toEqual(new Map());
    });

    it("of another kind do not limit", async () => {
      const writer = await index.openWriter(target(a));
      await writer.apply([{ seq: 0, ops: [store(chain.slice(0, 30))] }]);
      expect((await match(chain, new Map([[a, [full, other]]]))).get(a)?.blocks).toBe(30);
    });

    it("are counted apart", async () => {
      const writer = await index.openWriter(target(a));
      const result = await writer.apply([
        { seq: 0, ops: [store(chain), store(chain, "gpu", 1)] },
        { seq: 1, ops: [remove(chain, "gpu", 1), remove(chain.slice(0, 1), "gpu", 2)] },
      ]);
      expect(result.unknownRemovals).toBe(1);
      expect((await match(chain)).get(a)?.blocks).toBe(40);
    });
  });

  describe("copies", () => {
    it("keep a block until the last one is removed, per medium", async () => {
      const writer = await index.openWriter(target(a));
      const [first] = chain as [BlockKey];
      await writer.apply([{ seq: 0, ops: [store([first]), store([first]), store([first, first], "cpu")] }]);
      expect(await index.holders(scope, first)).toEqual([
        { endpoint: a, group: 0, incarnation: 1, live: true, copies: { gpu: 2, cpu: 2 } },
      ]);
      await writer.apply([{ seq: 1, ops: [remove([first])] }]);
      expect((await match([first])).get(a)?.byMedium).toEqual({ gpu: 1 });
      await writer.apply([{ seq: 2, ops: [remove([first])] }]);
      expect((await match([first])).get(a)?.byMedium).toEqual({ cpu: 1 });
      await writer.apply([{ seq: 3, ops: [remove([first], "cpu"), remove([first], "cpu")] }]);
      expect(await index.holders(scope, first)).toEqual([]);
    });

    it("are not counted further by a confirmation, which makes an unknown block known", async () => {
      const writer = await index.openWriter(target(a));
      const [first, second] = chain as [BlockKey, BlockKey];
      const confirm = (keys: readonly BlockKey[], medium: Medium = "gpu"): IndexOp => ({ op: "confirm", medium, group: 0, keys });
      const copiesOf = async (key: BlockKey) => (await index.holders(scope, key))[0]?.copies;
      await writer.apply([{ seq: 0, ops: [store([first]), confirm([first, second]), confirm([second, second])] }]);
      expect([await copiesOf(first), await copiesOf(second)]).toEqual([{ gpu: 1 }, { gpu: 1 }]);
      await writer.apply([{ seq: 1, ops: [store([first]), confirm([first]), confirm([first], "cpu"), confirm([first], "cpu")] }]);
      expect(await copiesOf(first)).toEqual({ gpu: 2, cpu: 1 });
      await writer.apply([{ seq: 2, ops: [remove([second]), confirm([second])] }]);
      expect(await copiesOf(second)).toEqual({ gpu: 1 });
      await writer.apply([{ seq: 3, ops: [remove([second])] }]);
      expect(await copiesOf(second)).toBeUndefined();
      const next = await index.openWriter(target(a, { incarnation: 2, from: 4 }));
      await next.apply([{ seq: 4, ops: [confirm([first])] }]);
      expect(await copiesOf(first)).toEqual({ gpu: 1 });
    });

    it("are applied in the engine's order: a removal before a store of the same block leaves the store", async () => {
      const writer = await index.openWriter(target(a));
      await writer.apply([{ seq: 0, ops: [store(chain)] }]);
      await writer.apply([{ seq: 1, ops: [remove(chain), store(chain.slice(0, 7))] }]);
      expect((await match(chain)).get(a)?.blocks).toBe(7);
    });

    it("never fall below zero: removals of what is not held are counted", async () => {
      const writer = await index.openWriter(target(a));
      const first = chain.slice(0, 1);
      const result = await writer.apply([{ seq: 0, ops: [remove(first), remove(first, "cpu"), store(first), remove(first, "cpu")] }]);
      expect(result.unknownRemovals).toBe(3);
      expect((await match(first)).get(a)?.blocks).toBe(1);
    });
  });

  describe("names", () => {
    const hashOf = (key: BlockKey) => [...key].reverse().join("") as EngineHash;
    const named = (op: IndexOp): IndexOp => ({ ...op, names: op.keys.map(hashOf) });
    const find = (writer: IndexWriter, keys: readonly BlockKey[], group = 0) =>
      writer.keysOf(keys.map((key) => ({ hash: hashOf(key), group })));

    it("find a block as long as it is held in their group, in whatever medium", async () => {
      const writer = await index.openWriter(target(a));
      const [first, second] = chain as [BlockKey, BlockKey];
      expect(await find(writer, chain)).toEqual(chain.map(() => null));
      await writer.apply([
        { seq: 0, ops: [named(store(chain)), named(store([first])), named(store([second], "cpu")), named(store([first], "gpu", 1))] },
      ]);
      expect(await find(writer, chain)).toEqual(chain);
      expect(await find(writer, [first, second], 1)).toEqual([first, null]);
      expect(await writer.keysOf([])).toEqual([]);
      await writer.apply([{ seq: 1, ops: [named(remove(chain))] }]);
      expect(await find(writer, chain)).toEqual(chain.map((_, i) => (i < 2 ? chain[i] : null)));
      await writer.apply([{ seq: 2, ops: [named(remove([second], "cpu")), named(remove([first])), named(store([second]))] }]);
      expect(await find(writer, [first, second])).toEqual([null, second]);
      expect(await find(writer, [first], 1)).toEqual([first]);
      await writer.apply([{ seq: 3, ops: [named(remove([first], "gpu", 1)), named(remove([first], "gpu", 1))] }]);
      expect(await find(writer, [first], 1)).toEqual([null]);
    });

    it("outlive their owner and not their incarnation, and are nobody else's", async () => {
      const first = await index.openWriter(target(a));
      await first.apply([{ seq: 0, ops: [named(store(chain))] }]);
      const next = await index.openWriter(target(a, { fence: 2 }));
      expect(await find(next, chain)).toEqual(chain);
      expect(await find(await index.openWriter(target(b)), chain)).toEqual(chain.map(() => null));
      const names = chain.map((key) => ({ hash: hashOf(key), group: 0 }));
      expect(await index.keysOf(scope, { endpoint: a, incarnation: 1 }, names)).toEqual(chain);
      const second = await index.openWriter(target(a, { fence: 2, incarnation: 2, from: 1 }));
      expect(await find(second, chain)).toEqual(chain.map(() => null));
      expect(await index.keysOf(scope, { endpoint: a, incarnation: 1 }, names)).toEqual(chain.map(() => null));
    });

    it("are found in thousands", async () => {
      const long = chainOf(9, 2_500);
      const writer = await index.openWriter(target(a));
      await writer.apply([{ seq: 0, ops: [named(store(long))] }]);
      expect(await find(writer, long)).toEqual(long);
      await writer.apply([{ seq: 1, ops: [named(remove(long.slice(1)))] }]);
      expect(await find(writer, long)).toEqual(long.map((key, i) => (i === 0 ? key : null)));
    });
  });

  describe("exactly once", () => {
    it("applies a batch once, however often it is passed", async () => {
      const writer = await index.openWriter(target(a));
      const batch = { seq: 0, ops: [store(chain)] };
      expect((await writer.apply([batch])).applied).toBeGreaterThan(0);
      const again = await writer.apply([batch]);
      expect(again.applied).toBe(0);
      expect(again.duplicates).toBeGreaterThan(0);
      await writer.apply([{ seq: 1, ops: [remove(chain.slice(1))] }]);
      expect((await match(chain)).get(a)?.blocks).toBe(1);
    });

    it("lets the next owner go on from the watermark, and skips what is replayed below it", async () => {
      const batches = Array.from({ length: 10 }, (_, seq) => ({
        seq,
        ops: [store(chain.slice(seq * 4, seq * 4 + 4)), store(chain.slice(0, 1))],
      }));
      const first = await index.openWriter(target(a));
      await first.apply(batches.slice(0, 3));
      await first.apply(batches.slice(3, 6));
      await first.settle();
      const second = await index.openWriter(target(a, { fence: 2 }));
      expect(second.applied).toBe(5);
      await second.apply(batches.slice(2));
      await second.settle();
      expect(second.applied).toBe(9);
      expect((await index.openWriter(target(a, { fence: 3 }))).applied).toBe(9);
      expect((await match(chain)).get(a)?.blocks).toBe(40);
      expect((await index.holders(scope, chain[0] as BlockKey))[0]?.copies).toEqual({ gpu: 11 });
    });

    it("applies large batches whole, and a replay of them not again", async () => {
      const long = chainOf(3, 2_345);
      const first = await index.openWriter(target(a));
      await first.apply([
        { seq: 7, ops: [store(long), remove(long.slice(2_000))] },
        { seq: 8, ops: [store(long.slice(2_000, 2_100))] },
      ]);
      expect(first.applied).toBe(8);
      const second = await index.openWriter(target(a, { fence: 2 }));
      await second.apply([
        { seq: 7, ops: [store(long), remove(long.slice(2_000))] },
        { seq: 8, ops: [store(long.slice(2_000, 2_100))] },
      ]);
      expect((await match(long)).get(a)?.blocks).toBe(2_100);
      await second.apply([{ seq: 9, ops: [remove(long.slice(0, 2_100).reverse())] }]);
      expect(await match(long)).toEqual(new Map());
    });

    it("moves the watermark for batches without operations", async () => {
      const writer = await index.openWriter(target(a, { from: 5 }));
      expect(writer.applied).toBe(4);
      await writer.apply([
        { seq: 5, ops: [] },
        { seq: 6, ops: [] },
      ]);
      expect(writer.applied).toBe(6);
      await writer.settle();
      expect((await index.openWriter(target(a, { fence: 2, from: 5 }))).applied).toBe(6);
    });

    it("runs calls of one writer one after another", async () => {
      const writer = await index.openWriter(target(a));
      await Promise.all(chain.map((key, seq) => writer.apply([{ seq, ops: [store([key])] }])));
      expect(writer.applied).toBe(39);
      expect((await match(chain)).get(a)?.blocks).toBe(40);
    });
  });

  describe("one writer", () => {
    it("refuses a writer that a later fence has overtaken, and its endpoint's next opening with the old fence", async () => {
      const old = await index.openWriter(target(a, { fence: 5 }));
      await old.apply([{ seq: 0, ops: [store(chain.slice(0, 2))] }]);
      await index.openWriter(target(a, { fence: 6 }));
      expect(await codeOf(old.apply([{ seq: 1, ops: [store(chain)] }]))).toBe("KVATLAS_INDEX_FENCED");
      expect(await codeOf(index.openWriter(target(a, { fence: 5 })))).toBe("KVATLAS_INDEX_FENCED");
      expect((await match(chain)).get(a)?.blocks).toBe(2);
    });

    it("lets a writer see that nothing has changed, or that it has been overtaken", async () => {
      const old = await index.openWriter(target(a, { fence: 5 }));
      await old.verify();
      await old.apply([{ seq: 0, ops: [store(chain)] }]);
      await old.verify();
      expect(old.applied).toBe(0);
      await index.openWriter(target(a, { fence: 6 }));
      expect(await codeOf(old.verify())).toBe("KVATLAS_INDEX_FENCED");
      const next = await index.openWriter(target(a, { fence: 6, incarnation: 2, from: 1 }));
      await index.openWriter(target(a, { fence: 6, incarnation: 3, from: 1 }));
      expect(await codeOf(next.verify())).toBe("KVATLAS_INDEX_STALE_INCARNATION");
    });

    it("refuses a writer of an earlier incarnation", async () => {
      const old = await index.openWriter(target(a));
      await index.openWriter(target(a, { incarnation: 2, from: 1 }));
      expect(await codeOf(old.apply([{ seq: 0, ops: [store(chain)] }]))).toBe("KVATLAS_INDEX_STALE_INCARNATION");
      expect(await codeOf(index.openWriter(target(a)))).toBe("KVATLAS_INDEX_STALE_INCARNATION");
      expect(await match(chain)).toEqual(new Map());
    });

    it("shows how far every endpoint is, and who writes for it", async () => {
      const writer = await index.openWriter(target(a, { from: 3, fence: 7 }));
      await index.openWriter(target(b, { incarnation: 9, from: 0, fence: 8 }));
      expect((await index.positions(scope)).get(a)).toEqual({ incarnation: 1, fence: 7, applied: 2 });
      await writer.apply([{ seq: 3, ops: [store(chain)] }]);
      await writer.apply([{ seq: 4, ops: [] }]);
      await writer.settle();
      expect(await index.positions(scope)).toEqual(
        new Map([
          [a, { incarnation: 1, fence: 7, applied: 4 }],
          [b, { incarnation: 9, fence: 8, applied: -1 }],
        ]),
      );
    });

    it("leaves other endpoints alone", async () => {
      const writer = await index.openWriter(target(a));
      await index.openWriter(target(b, { fence: 99, incarnation: 99 }));
      await writer.apply([{ seq: 0, ops: [store(chain)] }]);
      expect((await match(chain)).get(a)?.blocks).toBe(40);
    });
  });

  describe("incarnations", () => {
    async function twoIncarnations(): Promise<IndexWriter> {
      const first = await index.openWriter(target(a));
      await first.apply([{ seq: 0, ops: [store(chain), store(chain), store(chain, "cpu"), store(chain, "gpu", 1)] }]);
      return index.openWriter(target(a, { incarnation: 2, from: 1 }));
    }

    it("make all earlier entries invisible at once", async () => {
      const second = await twoIncarnations();
      expect(second.applied).toBe(0);
      expect(await match(chain)).toEqual(new Map());
      expect((await index.holders(scope, chain[0] as BlockKey)).map((holder) => holder.live)).toEqual([false, false]);
    });

    it("begin with no copies: stores overwrite and removals are unknown", async () => {
      const second = await twoIncarnations();
      const result = await second.apply([
        { seq: 1, ops: [store(chain.slice(0, 5)), remove(chain.slice(0, 5)), remove(chain.slice(8, 9))] },
      ]);
      expect(result.unknownRemovals).toBe(1);
      await second.apply([{ seq: 2, ops: [store(chain.slice(0, 3))] }]);
      expect((await match(chain)).get(a)).toEqual({ blocks: 3, byMedium: { gpu: 3 } });
    });

    it("leave entries that a sweep reclaims, slice by slice, without touching live ones", async () => {
      const second = await twoIncarnations();
      const other = await index.openWriter(target(b));
      await other.apply([{ seq: 0, ops: [store(chain.slice(0, 20))] }]);
      await second.apply([{ seq: 1, ops: [store(chain.slice(0, 10))] }]);
      let cursor: string | null = "0";
      let dropped = 0;
      for (let slices = 0; cursor !== null && slices < 10_000; slices += 1) {
        const slice = await index.sweep(scope, cursor, 7);
        dropped += slice.dropped;
        cursor = slice.next;
      }
      expect(cursor).toBeNull();
      // 30 of group 0 that were not overwritten, 40 of group 1.
      expect(dropped).toBe(70);
      for (const [i, key] of chain.entries()) {
        const holders = (await index.holders(scope, key)).map((holder) => holder.endpoint);
        expect(new Set(holders)).toEqual(new Set([...(i < 10 ? [a] : []), ...(i < 20 ? [b] : [])]));
      }
      expect((await match(chain)).get(a)?.blocks).toBe(10);
    });

    it("are shown as dead by a walk, which meets every block", async () => {
      const second = await twoIncarnations();
      await second.apply([{ seq: 1, ops: [store(chain.slice(0, 10)), store(chain.slice(0, 2))] }]);
      const met = new Map<BlockKey, string[]>();
      let cursor: string | null = "0";
      for (let slices = 0; cursor !== null && slices < 10_000; slices += 1) {
        const slice = await index.walk(scope, cursor, 7);
        for (const { key, holders } of slice.blocks) {
          met.set(
            key,
            holders
              .map(({ endpoint, group, live, copies }) => `${endpoint}#${group} ${live ? "live" : "dead"} ${JSON.stringify(copies)}`)
              .sort(),
          );
        }
        cursor = slice.next;
      }
      expect(cursor).toBeNull();
      expect(new Set(met.keys())).toEqual(new Set(chain));
      expect(met.get(chain[0] as BlockKey)).toEqual([`${a}#0 live {"gpu":2}`, `${a}#1 dead {"gpu":1}`]);
      expect(met.get(chain[39] as BlockKey)).toEqual([`${a}#0 dead {"gpu":2,"cpu":1}`, `${a}#1 dead {"gpu":1}`]);
      expect((await index.walk("nobody.b16" as ScopeId, "0", 7)).blocks).toEqual([]);
    });

    it("end when the endpoint is forgotten: its entries die, its writer stops, a new incarnation starts empty", async () => {
      const writer = await index.openWriter(target(a));
      await writer.apply([{ seq: 0, ops: [store(chain)] }]);
      await index.forget(scope, a);
      expect(await match(chain)).toEqual(new Map());
      expect(await codeOf(writer.apply([{ seq: 1, ops: [store(chain)] }]))).toBe("KVATLAS_INDEX_STALE_INCARNATION");
      const next = await index.openWriter(target(a, { incarnation: 2, from: 0 }));
      await next.apply([{ seq: 0, ops: [store(chain.slice(0, 2))] }]);
      expect((await match(chain)).get(a)?.blocks).toBe(2);
    });
  });
}
