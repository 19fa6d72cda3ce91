import fc from "fast-check";
import { describe, expect, it } from "vitest";
import type { CacheGroup } from "../types.ts";
import { hybridHit, hybridLayout } from "./hybrid-hit.ts";

const group = (id: number, kind: CacheGroup["kind"], blockSizeTokens: number, windowTokens: number | null = null): CacheGroup => ({
  id,
  kind,
  blockSizeTokens,
  windowTokens,
});

/** The definition, tried for every k from the top. */
function bruteForce(groups: readonly CacheGroup[], limit: number, holds: (group: number, position: number) => boolean): number {
  const { step } = hybridLayout(groups);
  const unit = Math.min(...groups.map(({ blockSizeTokens }) => blockSizeTokens));
  for (let k = limit - (limit % step); k > 0; k -= step) {
    const isHit = groups.every(({ id, kind, blockSizeTokens, windowTokens }) => {
      if (kind === "other") return true;
      const ratio = blockSizeTokens / unit;
      const end = k / ratio;
      const begin = kind === "full" ? 0 : Math.max(0, end - Math.ceil(((windowTokens ?? 1) - 1) / blockSizeTokens));
      for (let block = begin; block < end; block += 1) if (!holds(id, (block + 1) * ratio - 1)) return false;
      return true;
    });
    if (isHit) return k;
  }
  return 0;
}

describe("hybridHit", () => {
  it("is the full-attention prefix when no other group limits it", () => {
    const layout = hybridLayout([group(0, "full", 16), group(1, "other", 16)]);
    expect(hybridHit(layout, 10, (_, position) => position < 7)).toBe(7);
    expect(hybridHit(layout, 5, () => true)).toBe(5);
  });

  it("is confined to where the sliding windows are whole", () => {
    const layout = hybridLayout([group(0, "full", 32), group(1, "sliding", 32, 128), group(2, "sliding", 32, 128)]);
    // Four blocks of 32 reach back 127 tokens.
    const windows: Record<number, readonly number[]> = { 1: [10, 11, 12, 13, 14, 15], 2: [9, 10, 11, 12, 13, 15] };
    expect(hybridHit(layout, 20, (id, position) => id === 0 || (windows[id] ?? []).includes(position))).toBe(14);
  });

  it("needs no more of a window than the prefix is long", () => {
    const layout = hybridLayout([group(0, "full", 16), group(1, "sliding", 16, 1_024)]);
    expect(hybridHit(layout, 3, (_, position) => position < 3)).toBe(3);
  });

  it("looks for the end of a window anywhere when all groups slide", () => {
    const layout = hybridLayout([group(0, "sliding", 16, 33)]);
    expect(hybridHit(layout, 100, (_, position) => [41, 42, 60].includes(position))).toBe(43);
  });

  it("is a multiple of the groups' common block size", () => {
    const layout = hybridLayout([group(0, "full", 16), group(1, "sliding", 48, 49)]);
    expect(hybridHit(layout, 20, () => true)).toBe(18);
    expect(hybridHit(layout, 20, (id, position) => id === 0 || position === 8)).toBe(9);
  });

  it("predicts nothing from groups of unknown kinds alone", () => {
    expect(hybridHit(hybridLayout([group(0, "other", 16)]), 20, () => true)).toBe(0);
  });

  it("agrees with its definition on anything", () => {
    const kinds = fc.constantFrom<CacheGroup["kind"]>("full", "sliding", "other");
    const groups = fc
      .array(fc.record({ kind: kinds, ratio: fc.constantFrom(1, 2, 3), window: fc.integer({ min: 1, max: 200 }) }), { maxLength: 3 })
      .map((list) => [
        group(0, "full", 16),
        ...list.map(({ kind, ratio, window }, i) => group(i + 1, kind, 16 * ratio, kind === "sliding" ? window : null)),
      ]);
    const held = fc.array(fc.array(fc.integer({ min: 0, max: 9 }), { minLength: 40, maxLength: 40 }), { minLength: 4, maxLength: 4 });
    fc.assert(
      fc.property(groups, fc.integer({ min: 0, max: 40 }), held, (list, limit, dice) => {
        // Nine of ten are held: long prefixes with holes.
        const holds = (id: number, position: number) => (dice[id]?.[position] ?? 0) > 0;
        expect(hybridHit(hybridLayout(list), limit, holds)).toBe(bruteForce(list, limit, holds));
      }),
      { numRuns: 500 },
    );
  });
});
