import { createBlockHasher } from "@kvatlas/shared/hashing/block-hasher";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { KeyMemory } from "./key-memory.ts";

const hasherOf = (blockSizeTokens: number, lookaheadTokens = 0) =>
  createBlockHasher({ scheme: { kind: "native", algorithm: "sha256_cbor", seed: "0" }, blockSizeTokens, model: "m", lookaheadTokens });

describe("KeyMemory", () => {
  it("gives the keys that hashing everything gives, whatever was asked before", () => {
    // Few distinct tokens and edits in the middle: prompts that share beginnings, differ late, and come in any order.
    const prompt = fc.array(fc.integer({ min: 0, max: 1 }), { maxLength: 90 });
    fc.assert(
      fc.property(
        fc.array(prompt, { minLength: 1, maxLength: 20 }),
        fc.constantFrom(1, 3, 4),
        fc.constantFrom(0, 1, 2),
        (prompts, block, lookahead) => {
          const memory = new KeyMemory({ segmentTokens: 8, maxTokens: 200 });
          const hasher = hasherOf(block, lookahead);
          for (const tokens of prompts.map((ids) => Uint32Array.from(ids))) {
            expect(memory.keys(hasher, "chain", tokens, undefined, lookahead)).toEqual(hasher.chain(tokens).keys);
          }
        },
      ),
      { numRuns: 200 },
    );
  });

  it("does not mix chains with different extras", () => {
    const memory = new KeyMemory({ segmentTokens: 4 });
    const hasher = hasherOf(4);
    const tokens = Uint32Array.from({ length: 16 }, (_, i) => i);
    const plain = memory.keys(hasher, "plain", tokens, undefined, 0);
    const salted = memory.keys(hasher, "salted", tokens, { cacheSalt: "s" }, 0);
    expect(salted).toEqual(hasher.chain(tokens, { cacheSalt: "s" }).keys);
    expect(salted).not.toEqual(plain);
  });

  it("tells images apart that have the same tokens, and shares what comes before them", () => {
    const tokens = fc.array(fc.integer({ min: 0, max: 1 }), { minLength: 20, maxLength: 60 });
    const item = fc.record({ identifier: fc.constantFrom("a", "b"), offset: fc.nat(40), length: fc.integer({ min: 1, max: 12 }) });
    fc.assert(
      fc.property(
        fc.array(fc.tuple(tokens, fc.array(item, { maxLength: 3 })), { minLength: 1, maxLength: 12 }),
        fc.constantFrom("plain", "offset", "tagged"),
        fc.constantFrom(0, 2),
        (prompts, extrasForm, lookaheadTokens) => {
          const memory = new KeyMemory({ segmentTokens: 8, maxTokens: 400 });
          const hasher = createBlockHasher({
            scheme: { kind: "native", algorithm: "sha256_cbor", seed: "0" },
            blockSizeTokens: 4,
            model: "m",
            extrasForm,
            lookaheadTokens,
          });
          for (const [ids, items] of prompts) {
            const prompt = Uint32Array.from(ids);
            const media = items.sort((a, b) => a.offset - b.offset);
            const extras = media.length === 0 ? undefined : { media };
            expect(memory.keys(hasher, "chain", prompt, extras, lookaheadTokens)).toEqual(hasher.chain(prompt, extras).keys);
          }
        },
      ),
      { numRuns: 200 },
    );
  });

  it("hashes only what is new", () => {
    const memory = new KeyMemory({ segmentTokens: 16 });
    const hasher = hasherOf(4);
    let hashed = 0;
    const counting = {
      blockSizeTokens: 4,
      chain: (...args: Parameters<typeof hasher.chain>) => {
        const chain = hasher.chain(...args);
        hashed += chain.keys.length;
        return chain;
      },
    };
    const turn = Uint32Array.from({ length: 160 }, (_, i) => i);
    memory.keys(counting, "chain", turn, undefined, 0);
    expect(hashed).toBe(40);
    memory.keys(counting, "chain", Uint32Array.from([...turn, 1, 2, 3, 4]), undefined, 0);
    expect(hashed).toBe(41);
  });
});
