import { describe, expect, it } from "vitest";
import type { BlockKey } from "../types.ts";
import { compareCopies, readReplicaDumps } from "./replica-dump.ts";

describe("readReplicaDumps", () => {
  it("reads every rank and medium, and leaves out what is malformed", () => {
    const dump = { rank: 1, group: 0, medium: "cpu", nextSequence: 7, unpublished: 2, hashes: { aa: 2, bb: 1, cc: 0, dd: "x" } };
    const dumps = readReplicaDumps("h:1", {
      ranks: [dump, { ...dump, rank: 0, medium: "GPU?", group: -1 }, null, { rank: 0 }, { ...dump, rank: "1" }],
    });
    expect(
      dumps.map(({ endpoint, group, medium, nextSequence, unpublished }) => [endpoint, group, medium, nextSequence, unpublished]),
    ).toEqual([
      ["h:1/1", 0, "cpu", 7, 2],
      ["h:1", 0, "gpu", 7, 2],
    ]);
    expect(dumps[0]?.hashes).toEqual(
      new Map([
        ["aa", 2],
        ["bb", 1],
      ]),
    );
    for (const nonsense of [null, 5, [], { ranks: {} }, { ranks: "x" }]) expect(readReplicaDumps("h:1", nonsense)).toEqual([]);
  });
});

describe("compareCopies", () => {
  const map = (counts: Record<string, number>) => new Map(Object.entries(counts)) as Map<BlockKey, number>;

  it("tells phantoms, losses and miscounts apart, in the blocks that were asked about", () => {
    const indexed = map({ same: 2, phantom: 1, more: 3, unasked: 1 });
    const truth = map({ same: 2, lost: 1, more: 2 });
    expect(compareCopies(["same", "phantom", "lost", "more", "neither", "same"] as BlockKey[], indexed, truth)).toEqual({
      compared: 5,
      phantom: ["phantom"],
      lost: ["lost"],
      copies: ["more"],
    });
  });
});
