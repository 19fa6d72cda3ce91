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
