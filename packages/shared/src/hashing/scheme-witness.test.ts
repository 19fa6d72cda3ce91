import { describe, expect, it } from "vitest";
import type { BlockStored } from "../events/events.ts";
import type { EngineHash } from "../types.ts";
import { createBlockHasher } from "./block-hasher.ts";
import type { HashAlgorithm, NativeScheme } from "./key-scheme.ts";
import { testimonyOf } from "./scheme-witness.ts";

const native = (algorithm: HashAlgorithm, seed: string): NativeScheme => ({ kind: "native", algorithm, seed });
const context = { blockSizeTokens: 4, loraPath: undefined };
const tokens = Array.from({ length: 16 }, (_, i) => i * 7);

/** Blocks `from` to 4 of one prompt, as an engine of this scheme stores them. */
function store(scheme: NativeScheme, from: number, changes: Partial<BlockStored> = {}): BlockStored {
  const keys = createBlockHasher({ scheme, blockSizeTokens: 4, model: "m" })
    .chain(tokens)
    .keys.map((key) => `${key}` as EngineHash);
  return {
    kind: "stored",
    hashes: keys.slice(from),
    parent: keys[from - 1] ?? null,
    tokenIds: tokens.slice(from * 4),
    blockSizeTokens: 4,
    medium: "gpu",
    loraId: null,
    loraName: null,
    extraKeys: keys.slice(from).map(() => null),
    group: 0,
    specKind: null,
    slidingWindowTokens: null,
    lookahead: null,
    ...changes,
  };
}

describe("what a store says about a scheme", () => {
  it.each<[HashAlgorithm, HashAlgorithm, string, string]>([
    ["sha256_cbor_64bit", "sha256_cbor_64bit", "for", "for"],
    ["sha256_cbor_64bit", "sha256", "against", "nothing"],
    ["sha256", "sha256", "for", "nothing"],
    ["sha256", "sha256_cbor_64bit", "against", "against"],
    ["xxhash", "xxhash_cbor", "against", "nothing"],
  ])("an engine with %s, asked about %s: from the root %s, in the middle %s", (engine, asked, root, middle) => {
    expect(testimonyOf(store(native(engine, "42"), 0), native(asked, "42"), context)).toBe(root);
    expect(testimonyOf(store(native(engine, "42"), 2), native(asked, "42"), context)).toBe(middle);
  });

  it("only the root tells the seed", () => {
    const engine = native("sha256_cbor_64bit", "42");
    expect(testimonyOf(store(engine, 0), native("sha256_cbor_64bit", "0"), context)).toBe("against");
    expect(testimonyOf(store(engine, 1), native("sha256_cbor_64bit", "0"), context)).toBe("for");
  });

  it("says nothing where something unseen may be hashed, or tokens do not pair with hashes", () => {
    const scheme = native("sha256_cbor_64bit", "42");
    const other = native("sha256", "42");
    expect(testimonyOf(store(other, 1, { extraKeys: null }), scheme, context)).toBe("nothing");
    expect(testimonyOf(store(scheme, 1, { tokenIds: [] }), scheme, context)).toBe("nothing");
    expect(testimonyOf(store(scheme, 1), scheme, { ...context, blockSizeTokens: 3 })).toBe("nothing");
  });
});
