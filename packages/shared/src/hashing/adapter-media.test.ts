import { describe, expect, it } from "vitest";
import type { BlockStored, WireExtra } from "../events/events.ts";
import { storedEvent } from "../events/stored-event.fixture.ts";
import type { EngineHash } from "../types.ts";
import { mediaOfAdapter, namesMediaByAdapter } from "./adapter-media.ts";

const stored = (extraKeys: BlockStored["extraKeys"], more: Partial<BlockStored> = {}): BlockStored =>
  storedEvent(
    { hashes: ["01", "02"] as EngineHash[], parent: null, tokenIds: [1, 2, 3, 4] },
    { loraId: 1, loraName: "sql", extraKeys, ...more },
  );

describe("images of requests for an adapter", () => {
  it("are named after it", () => {
    expect(mediaOfAdapter([{ identifier: "abc", offset: 3, length: 4 }], "sql")).toEqual([{ identifier: "sql:abc", offset: 3, length: 4 }]);
  });

  it.each<[string, readonly (readonly WireExtra[] | null)[], boolean | null]>([
    ["with the adapter's name", [["sql"], ["sql", ["sql:abc", 1]]], true],
    ["without it", [["sql"], ["sql", ["abc", 1]]], false],
    ["after another one of which this is the beginning", [["sql"], ["sql", ["sqlite:abc", 1]]], false],
    ["in a release of plain identifiers, with it", [["sql"], ["sql", "sql:abc"]], true],
    ["in a release of plain identifiers, in the block that a salt may be in", [["sql", "sql:abc"], ["sql"]], null],
    ["in a release of plain identifiers, without it", [["sql"], ["sql", "abc"]], null],
    ["not at all", [["sql"], ["sql"]], null],
  ])("show in a store: named %s", (_, extraKeys, expected) => {
    expect(namesMediaByAdapter(stored(extraKeys))).toBe(expected);
  });

  it("show only in stores of an adapter that tell their extra keys", () => {
    expect(namesMediaByAdapter(stored([[["sql:abc", 0]], null], { loraName: null }))).toBeNull();
    expect(namesMediaByAdapter(stored(null))).toBeNull();
  });
});
