import { describe, expect, it } from "vitest";
import { hashAlgorithms, type ScopeSpec, scopeIdOf } from "./key-scheme.ts";

const spec = (model: string, seed = "0", blockSizeTokens = 16): ScopeSpec => ({
  model,
  blockSizeTokens,
  scheme: { kind: "native", algorithm: "sha256_cbor_64bit", seed },
});

describe("scopeIdOf", () => {
  it("is readable where nothing is lost", () => {
    expect(scopeIdOf(spec("qwen3-32b", "42", 64))).toBe("qwen3-32b.b64.sha256_cbor_64bit.s42");
    expect(scopeIdOf({ model: "m", blockSizeTokens: 16, scheme: { kind: "content", seed: "" } })).toBe("m.b16.content.s");
  });

  it("adds a digest where cleaning loses something", () => {
    expect(scopeIdOf(spec("Qwen/Qwen3-32B"))).toMatch(/^qwen3-32b\.b16\.sha256_cbor_64bit\.s0\.x[0-9a-f]{12}$/);
    const ids = ["Qwen/Qwen3-32B", "other/Qwen3-32B", "qwen3-32B", "qwen3-32b", "", "/", "m.b16.sha256_cbor_64bit.s1"].map((model) =>
      scopeIdOf(spec(model)),
    );
    ids.push(scopeIdOf(spec("m", "1.b16.sha256_cbor_64bit.s0")), scopeIdOf(spec("m", "A")), scopeIdOf(spec("m", "a")));
    expect(new Set(ids).size).toBe(ids.length);
  });

  it("stays short and in its alphabet whatever the model and the seed", () => {
    for (const text of ["x".repeat(500), "模型", "a b/c d", "{kva}:*", "é".repeat(100)]) {
      for (const id of [scopeIdOf(spec(text)), scopeIdOf(spec("m", text)), scopeIdOf(spec(text, text, 65_536))]) {
        expect(id).toMatch(/^[a-z0-9._-]{1,96}$/);
      }
    }
  });

  it("tells every part of the spec apart", () => {
    const ids = hashAlgorithms.map((algorithm) =>
      scopeIdOf({ model: "M", blockSizeTokens: 16, scheme: { kind: "native", algorithm, seed: "0" } }),
    );
    ids.push(scopeIdOf({ model: "M", blockSizeTokens: 16, scheme: { kind: "content", seed: "0" } }), scopeIdOf(spec("M", "0", 32)));
    expect(new Set(ids).size).toBe(ids.length);
  });
});
