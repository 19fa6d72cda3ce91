import { hash } from "node:crypto";
import type { BlockStored } from "@kvatlas/shared/events/events";
import { createBlockHasher, type KeyExtras, type MediaItem } from "@kvatlas/shared/hashing/block-hasher";
import { createContentKeyMapper } from "@kvatlas/shared/hashing/content-keys";
import type { ExtrasForm, KeyScheme } from "@kvatlas/shared/hashing/key-scheme";
import type { EngineHash } from "@kvatlas/shared/types";
import { encode } from "cborg";
import fc from "fast-check";
import { describe, expect, it } from "vitest";

const tokenId = fc.oneof(fc.nat(300), fc.nat(262_144), fc.integer({ min: 0, max: 2 ** 32 - 1 }));
const prompt = fc.array(tokenId, { maxLength: 80 });
const media: fc.Arbitrary<MediaItem[]> = fc
  .array(fc.record({ identifier: fc.string({ minLength: 1 }), offset: fc.nat(80), length: fc.integer({ min: 1, max: 30 }) }), {
    maxLength: 3,
  })
  .map((items) => items.sort((a, b) => a.offset - b.offset));
const extras: fc.Arbitrary<KeyExtras> = fc.record(
  {
    lora: fc.record({ name: fc.string({ minLength: 1 }), path: fc.string() }),
    cacheSalt: fc.string({ minLength: 1, unit: "grapheme" }),
    media,
  },
  { requiredKeys: [] },
);

/** vLLM's `generate_block_hash_extra_keys`, written again from its description. */
function referenceExtras({ lora, cacheSalt, media: items }: KeyExtras, form: ExtrasForm, start: number, end: number): unknown[] | null {
  const tuple: unknown[] = [];
  if (lora) tuple.push(form === "tagged" ? ["lora", lora.name, lora.path] : lora.name);
  for (const item of items ?? []) {
    if (item.offset < end && item.offset + item.length > start) {
      if (form === "plain") tuple.push(item.identifier);
      else tuple.push(form === "tagged" ? ["mm", item.identifier, item.offset - start] : [item.identifier, item.offset - start]);
    }
  }
  if (cacheSalt !== undefined && start === 0) tuple.push(form === "tagged" ? ["cache_salt", cacheSalt] : cacheSalt);
  return tuple.length > 0 ? tuple : null;
}

describe("native keys", () => {
  it("equal SHA-256 over cborg's canonical CBOR for any prompt, extras, form, block size and lookahead", () => {
    const forms = fc.constantFrom<ExtrasForm>("plain", "offset", "tagged");
    fc.assert(
      fc.property(
        prompt,
        extras,
        forms,
        fc.integer({ min: 1, max: 20 }),
        fc.nat(3),
        fc.string(),
        (ids, given, extrasForm, size, lookaheadTokens, seed) => {
          const scheme: KeyScheme = { kind: "native", algorithm: "sha256_cbor", seed };
          const chain = createBlockHasher({ scheme, blockSizeTokens: size, model: "m", extrasForm, lookaheadTokens }).chain(ids, given);
          let parent = Buffer.from(hash("sha256", encode(seed), "hex"), "hex");
          const expected: string[] = [];
          for (let start = 0; start + size + lookaheadTokens <= ids.length; start += size) {
            const end = start + size;
            const own = referenceExtras(given, extrasForm, start, end + lookaheadTokens);
            const third = lookaheadTokens === 0 ? own : [own, ...ids.slice(end, end + lookaheadTokens)];
            parent = Buffer.from(hash("sha256", encode([parent, ids.slice(start, end), third]), "hex"), "hex");
            expected.push(parent.toString("hex").slice(-16));
          }
          expect(chain.keys).toEqual(expected);
          expect(chain.end).toEqual({ blocks: expected.length, parent: parent.toString("hex") });
        },
      ),
      { numRuns: 500 },
    );
  });

  it("are the same wherever the chain is cut", () => {
    const schemes = fc.constantFrom<KeyScheme>(
      { kind: "native", algorithm: "sha256", seed: "0" },
      { kind: "native", algorithm: "xxhash", seed: "0" },
      { kind: "native", algorithm: "sha256_cbor_64bit", seed: "0" },
      { kind: "content", seed: "0" },
    );
    fc.assert(
      fc.property(schemes, prompt, extras, fc.nat(80), (scheme, ids, given, cut) => {
        const hasher = createBlockHasher({ scheme, blockSizeTokens: 4, model: "m" });
        const whole = hasher.chain(ids, given);
        const head = hasher.chain(ids.slice(0, cut), given);
        const tail = hasher.chain(Uint32Array.from(ids), given, head.end);
        expect([...head.keys, ...tail.keys]).toEqual(whole.keys);
        expect(tail.end).toEqual(whole.end);
      }),
      { numRuns: 300 },
    );
  });
});

describe("content keys", () => {
  it("of events equal those of the requests that caused them, in the forms of every release", () => {
    const forms = fc.constantFrom<ExtrasForm>("plain", "offset", "tagged");
    fc.assert(
      fc.property(prompt, extras, forms, fc.nat(2), fc.nat(10), (ids, given, form, lookaheadTokens, cut) => {
        const size = 4;
        const scheme: KeyScheme = { kind: "content", seed: "s" };
        const request = createBlockHasher({ scheme, blockSizeTokens: size, model: "m", lookaheadTokens }).chain(ids, given);
        const mapper = createContentKeyMapper({ seed: "s", model: "m" });
        // The wire is untagged in every release.
        const wireForm = form === "tagged" ? "offset" : form;
        const event = (from: number, to: number): BlockStored => {
          const blocks = Array.from({ length: to - from }, (_, i) => from + i);
          return {
            kind: "stored",
            hashes: blocks.map((block) => block.toString(16).padStart(16, "0") as EngineHash),
            parent: from === 0 ? null : ("00000000000000ff" as EngineHash),
            tokenIds: ids.slice(from * size, to * size),
            blockSizeTokens: size,
            medium: "gpu",
            loraId: given.lora ? 1 : null,
            loraName: given.lora?.name ?? null,
            extraKeys: blocks.map((block) =>
              referenceExtras(given, wireForm, block * size, (block + 1) * size + lookaheadTokens),
            ) as BlockStored["extraKeys"],
            group: 0,
            specKind: null,
            slidingWindowTokens: null,
            lookahead:
              lookaheadTokens === 0 ? null : blocks.map((block) => ids.slice((block + 1) * size, (block + 1) * size + lookaheadTokens)),
          };
        };
        const blocks = request.keys.length;
        const middle = Math.min(cut, blocks);
        const head = mapper.keysOf(event(0, middle), null);
        const tail = mapper.keysOf(event(middle, blocks), middle === 0 ? null : (request.keys[middle - 1] ?? null));
        expect("keys" in head && "keys" in tail ? [...head.keys, ...tail.keys] : null).toEqual(request.keys);
      }),
      { numRuns: 300 },
    );
  });
});
