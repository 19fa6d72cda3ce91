import { describe, expect, it } from "vitest";
import { BlockPool } from "./block-pool.ts";

function createPool(numBlocks: number, unhashedFreedFirst = true): { readonly pool: BlockPool; readonly evicted: string[] } {
  const evicted: string[] = [];
  return { pool: new BlockPool({ numBlocks, unhashedFreedFirst, onEvicted: (hash) => evicted.push(hash) }), evicted };
}

/** Takes blocks for these hashes, caches and frees them, tail first. */
function run(pool: BlockPool, hashes: readonly (string | null)[]): void {
  const ids = pool.allocate(hashes.length);
  for (const [i, hash] of hashes.entries()) if (hash !== null) pool.insert(ids[i] ?? 0, hash);
  pool.free(ids.reverse());
}

describe("BlockPool", () => {
  it("hands out all blocks but the null block, in order", () => {
    const { pool } = createPool(5);
    expect(pool.freeBlocks).toBe(4);
    expect(pool.allocate(4)).toEqual([1, 2, 3, 4]);
    expect([pool.freeBlocks, pool.usage]).toEqual([0, 1]);
    expect(() => pool.allocate(1)).toThrow(RangeError);
  });

  it("keeps freed blocks hittable and evicts the tail of the oldest request first", () => {
    const { pool, evicted } = createPool(7);
    run(pool, ["a0", "a1", "a2"]);
    run(pool, ["b0", "b1", "b2"]);
    expect(pool.usage).toBe(0);
    expect(pool.leadingHits(["a0", "a1", "a2"], 3)).toHaveLength(3);
    run(pool, ["c0", "c1"]);
    expect(evicted).toEqual(["a2", "a1"]);
    expect(pool.leadingHits(["a0", "a1"], 2)).toHaveLength(1);
    run(pool, ["d0", "d1", "d2"]);
    expect(evicted).toEqual(["a2", "a1", "a0", "b2", "b1"]);
  });

  it("protects touched blocks, and renews their age when they are freed", () => {
    const { pool, evicted } = createPool(5);
    run(pool, ["a0", "a1"]);
    run(pool, ["b0", "b1"]);
    const hits = pool.leadingHits(["a0", "a1"], 2);
    expect(pool.countFree(hits)).toBe(2);
    pool.touch(hits);
    expect([pool.freeBlocks, pool.countFree(hits)]).toEqual([2, 0]);
    pool.free([...hits].reverse());
    run(pool, ["c0", "c1"]);
    expect(evicted).toEqual(["b1", "b0"]);
  });

  it("shares a block between requests until the last lets go", () => {
    const { pool } = createPool(4);
    const ids = pool.allocate(1);
    pool.insert(ids[0] ?? 0, "a");
    pool.touch(ids);
    pool.free(ids);
    expect(pool.freeBlocks).toBe(2);
    pool.free(ids);
    expect(pool.freeBlocks).toBe(3);
  });

  it("keeps copies of a hash apart and reports each one's eviction", () => {
    const { pool, evicted } = createPool(4);
    run(pool, ["a"]);
    const held = pool.allocate(2);
    pool.insert(held[0] ?? 0, "a");
    pool.insert(held[1] ?? 0, "a");
    expect(pool.copies()).toEqual(new Map([["a", 3]]));
    expect(pool.leadingHits(["a"], 1)).toEqual([1]);
    pool.allocate(1);
    expect([evicted, pool.copies()]).toEqual([["a"], new Map([["a", 2]])]);
    expect(pool.leadingHits(["a"], 1)).toEqual([2]);
    pool.free(held);
    pool.allocate(2);
    expect([evicted.length, pool.copies().size, pool.leadingHits(["a"], 1)]).toEqual([3, 0, []]);
  });

  it.each([
    [true, []],
    [false, ["a1"]],
  ])("reuses blocks without a hash before all others since 0.24 (%s)", (unhashedFreedFirst, expected) => {
    const { pool, evicted } = createPool(5, unhashedFreedFirst);
    run(pool, ["a0", "a1"]);
    run(pool, ["b0", null]);
    pool.allocate(1);
    expect(evicted).toEqual(expected);
  });

  it("resets only when nothing is in use", () => {
    const { pool, evicted } = createPool(3);
    const ids = pool.allocate(1);
    pool.insert(ids[0] ?? 0, "a");
    expect(pool.reset()).toBe(false);
    pool.free(ids);
    expect(pool.reset()).toBe(true);
    expect([pool.copies().size, pool.leadingHits(["a"], 1)]).toEqual([0, []]);
    pool.allocate(2);
    expect(evicted).toEqual([]);
  });
});
