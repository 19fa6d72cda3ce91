import { describe, expect, it } from "vitest";
import type { BlockStored, WireExtra } from "../events/events.ts";
import { storedEvent } from "../events/stored-event.fixture.ts";
import type { EngineHash } from "../types.ts";
import { createBlockHasher } from "./block-hasher.ts";
import { createContentKeyMapper } from "./content-keys.ts";

const mapper = createContentKeyMapper({ seed: "", model: "m" });
const hasher = createBlockHasher({ scheme: { kind: "content", seed: "" }, blockSizeTokens: 2, model: "m" });

function store(changes: Partial<BlockStored> = {}): BlockStored {
  const hashes = ["000000000000000a", "000000000000000b"] as EngineHash[];
  return storedEvent({ hashes, parent: null, tokenIds: [1, 2, 3, 4] }, changes);
}

describe("content keys of a store", () => {
  it("are those of the prompt, whatever its engine hashes", () => {
    const { keys } = hasher.chain([1, 2, 3, 4]);
    expect(mapper.keysOf(store(), null)).toEqual({ keys });
    const tail = store({ hashes: ["000000000000000b"] as EngineHash[], tokenIds: [3, 4] });
    expect(mapper.keysOf(tail, keys[0] ?? null)).toEqual({ keys: [keys[1]] });
  });

  it.each<[readonly (readonly WireExtra[])[]]>([
    [[["l", ["img", 0], "s"], ["l"]]],
    [
      [
        [
          ["lora", "l", "p"],
          ["mm", "img", 0],
          ["cache_salt", "s"],
        ],
        ["l"],
      ],
    ],
    [[["l", "img", "s"], ["l"]]],
  ])("take the adapter into the root and drop offsets and tags: %j", (extraKeys) => {
    const request = { lora: { name: "l" }, cacheSalt: "s", media: [{ identifier: "img", offset: 0, length: 2 }] };
    expect(mapper.keysOf(store({ loraId: 1, loraName: "l", extraKeys }), null)).toEqual({ keys: hasher.chain([1, 2, 3, 4], request).keys });
  });

  it("tell prompts with different embeddings apart", () => {
    const keys = [1, 2].map((byte) => mapper.keysOf(store({ extraKeys: [[new Uint8Array(32).fill(byte)], null] }), null));
    expect(keys[0]).not.toEqual(keys[1]);
  });

  it.each<[Partial<BlockStored>, string]>([
    [{ tokenIds: [] }, "no tokens"],
    [{ blockSizeTokens: 0 }, "no tokens"],
    [{ tokenIds: [1, 2, 3, 4, 5, 6] }, "tokens do not pair with hashes"],
    [{ loraId: 1 }, "lora name unknown"],
  ])("do not exist for %j: %s", (changes, obstacle) => {
    expect(mapper.keysOf(store(changes), null)).toEqual({ obstacle });
  });
});
