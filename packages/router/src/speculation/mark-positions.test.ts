import { describe, expect, it } from "vitest";
import { markPositions } from "./mark-positions.ts";

describe("markPositions", () => {
  it.each([
    [0, []],
    [1, [0]],
    [3, [0, 1, 2]],
  ])("of %i blocks", (blocks, positions) => {
    expect(markPositions(blocks)).toEqual(positions);
  });

  it.each([1, 5, 64, 750, 4_096])("find more than nine tenths of a common beginning of %i blocks, whatever follows", (common) => {
    const one = markPositions(common + 7);
    const other = new Set(markPositions(common + 900));
    const found = Math.max(...one.filter((position) => position < common && other.has(position))) + 1;
    expect(found).toBeGreaterThan(0.9 * common);
    expect(one).toEqual([...new Set(one)].sort((a, b) => a - b));
    expect(one.at(-1)).toBe(common + 6);
    expect(one.length).toBeLessThan(110);
  });
});
