import { describe, expect, it } from "vitest";
import type { BlockKey } from "../types.ts";
import { estimateKeys, everyNth, maxEstimateBlocks } from "./estimate-chain.ts";

const bytes = (text: string) => Buffer.from(text);

describe("estimateKeys", () => {
  it("are those of whole blocks, alike as long as all that is before is alike", () => {
    const keys = estimateKeys(bytes("aaaabbbbccccd"), 4, "root");
    expect(keys).toHaveLength(3);
    expect(new Set(keys).size).toBe(3);
    expect(estimateKeys(bytes("aaaabbbbdddd"), 4, "root").slice(0, 2)).toEqual(keys.slice(0, 2));
    expect(estimateKeys(bytes("aaaabbbbdddd"), 4, "root")[2]).not.toBe(keys[2]);
    expect(estimateKeys(bytes("xaaabbbbcccc"), 4, "root")[2]).not.toBe(keys[2]);
    expect(estimateKeys(bytes("aaaa"), 4, "other")[0]).not.toBe(keys[0]);
    for (const key of keys) expect(key).toMatch(/^[0-9a-f]{16}$/);
  });

  it("end after a bounded number of blocks", () => {
    expect(estimateKeys(new Uint8Array(maxEstimateBlocks + 7), 1, "")).toHaveLength(maxEstimateBlocks);
  });
});

describe("everyNth", () => {
  const keys = ["1", "2", "3", "4", "5", "6", "7"] as BlockKey[];

  it.each([
    [1, keys],
    [3, ["3", "6"]],
    [8, []],
  ])("takes one of %i", (n, taken) => {
    expect(everyNth(keys, n)).toEqual(taken);
  });
});
