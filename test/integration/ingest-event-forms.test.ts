import { createBlockHasher } from "@kvatlas/shared/hashing/block-hasher";
import type { BlockKey } from "@kvatlas/shared/types";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { eventually } from "../support/eventually.ts";
import { IngestBed } from "../support/ingest-bed.ts";
import { blockSize, poolOf, recordOf, scheme, type TestIngester, TestPrompt, type TestStore, wireHash } from "../support/ingest-rig.ts";
import type { TestPublisher } from "../support/test-publisher.ts";

const address = "127.0.0.1:1";
let bed: IngestBed;
beforeEach(() => {
  bed = new IngestBed();
});
afterEach(() => bed.close());

async function rigged(): Promise<{ store: TestStore; publisher: TestPublisher; rig: TestIngester }> {
  const publisher = await bed.publisher();
  return { store: bed.store, publisher, rig: await bed.ingester([poolOf([{ address, publisher }])]) };
}

/** The raw digest of a block, as engines send it that are told not to send integers, and their connectors up to 0.23 always. */
function digestOf(key: BlockKey | undefined): Uint8Array {
  return Buffer.concat([Buffer.alloc(24, 0xab), Buffer.from(key ?? "", "hex")]);
}

async function mediaOf(store: TestStore, key: BlockKey | undefined): Promise<Record<string, number>> {
  const scope = (await recordOf(store, address))?.meta.scope ?? null;
  if (scope === null || key === undefined) return {};
  const held = (await store.index.holders(scope, key)).find((holder) => holder.live);
  return Object.fromEntries(Object.entries(held?.copies ?? {}));
}

describe("events of every form", () => {
  it("takes integers and raw digests of one block for the same, also in stores without tokens", async () => {
    const { publisher, rig } = await rigged();
    const prompt = new TestPrompt(1, 3);
    await publisher.publish([prompt.stored()]);
    const offloaded = { type: "BlockStored", parent_block_hash: null, token_ids: [], block_size: 0, lora_id: null, medium: "CPU" };
    await publisher.publish([{ ...offloaded, block_hashes: prompt.keys.map(digestOf) }]);
    await bed.expectHeld(address, prompt.keys, [2, 2, 2]);
    await publisher.publish([["BlockRemoved", [wireHash(prompt.keys[0] ?? "")], "GPU"]]);
    await publisher.publish([{ type: "BlockRemoved", block_hashes: [digestOf(prompt.keys[1])], medium: "CPU" }]);
    // Signed, as `builtin` has them: the same 64 bits.
    await publisher.publish([{ type: "BlockRemoved", block_hashes: [BigInt.asIntN(64, wireHash(prompt.keys[2] ?? ""))], medium: "GPU" }]);
    await bed.expectHeld(address, prompt.keys, [1, 1, 1]);
    expect(await rig.metric("kvatlas_ingester_unknown_removals_total")).toBe(0);
    expect(await rig.metric("kvatlas_ingester_skipped_total")).toBe(0);
  });

  it("keeps every medium apart", async () => {
    const { store, publisher, rig } = await rigged();
    const prompt = new TestPrompt(1, 1);
    const [key] = prompt.keys;
    for (const medium of [null, "GPU", "CPU", "cpu", "STORAGE", "FS", "OBJ", "TAPE"])
      await publisher.publish([prompt.stored(0, 1, { medium })]);
    await bed.expectHeld(address, prompt.keys, [8]);
    const copies = Object.values(await mediaOf(store, key)).sort();
    expect(copies).toEqual([1, 2, 2, 3]);
    expect(await rig.metric("kvatlas_ingester_skipped_total", { reason: "unknown medium" })).toBe(1);
    await publisher.publish([{ type: "BlockRemoved", block_hashes: [wireHash(key ?? "")], medium: "TAPE" }]);
    await bed.expectHeld(address, prompt.keys, [7]);
  });

  it("brings in and takes out partial blocks beside whole ones, and stores without any hash", async () => {
    const { publisher } = await rigged();
    const [prompt, part] = [new TestPrompt(1, 2), new TestPrompt(2, 1)];
    await publisher.publish([prompt.stored()]);
    const partial = { token_ids: prompt.tokens.slice(0, blockSize / 2), block_size: blockSize / 2 };
    await publisher.publish([part.stored(0, 1, partial), prompt.stored(0, 0)]);
    await bed.expectHeld(address, [...prompt.keys, ...part.keys], [1, 1, 1]);
    await publisher.publish([part.removed(0)]);
    await bed.expectHeld(address, [...prompt.keys, ...part.keys], [1, 1, 0]);
  });

  it("keys SGLang's blocks by content: arrays, signed hashes of its own making, nothing else", async () => {
    const { store, publisher, rig } = await rigged();
    const prompts = Array.from({ length: 9 }, (_, i) => new TestPrompt(i + 1, 2));
    const own = (prompt: number, block: number): bigint => -(BigInt(prompt * 100 + block) << 40n) - 1n;
    for (const [i, prompt] of prompts.entries()) {
      await publisher.publish([["BlockStored", [own(i, 0), own(i, 1)], null, prompt.tokens, blockSize, null]]);
    }
    await eventually(async () => expect((await recordOf(store, address))?.meta.scope ?? null).not.toBeNull());
    const scope = (await recordOf(store, address))?.meta.scope;
    const spec = scope ? (await store.registry.scopes()).get(scope) : undefined;
    if (spec === undefined) throw new Error("the scope is known by now");
    expect(spec.scheme.kind).toBe("content");
    const hasher = createBlockHasher({ ...spec, model: "m" });
    const keys = prompts.map(({ tokens }) => hasher.chain(tokens).keys);
    for (const chain of keys) await bed.expectHeld(address, chain, [1, 1]);
    await publisher.publish([["BlockRemoved", [own(4, 1)]]]);
    await bed.expectHeld(address, keys[4] ?? [], [1, 0]);
    await publisher.publish([["BlockStored", [own(4, 7)], own(4, 0), prompts[4]?.tokens.slice(blockSize), blockSize, null]]);
    await bed.expectHeld(address, keys[4] ?? [], [1, 1]);
    expect(await rig.metric("kvatlas_ingester_skipped_total")).toBe(0);
  });

  it("keys a block that was decoded right after an image as its engine does, which does not find it again itself (up to 0.18)", async () => {
    const { store, publisher, rig } = await rigged();
    const { tokens } = new TestPrompt(1, 3);
    const plain = createBlockHasher({ scheme, blockSizeTokens: blockSize, model: "m", extrasForm: "plain" });
    const withImage = (length: number) => plain.chain(tokens, { media: [{ identifier: "img", offset: 0, length }] }).keys;
    // The image fills block 0. Decoded, block 1 carries its identifier too; in the next turn's prompt it does not.
    const prompt = withImage(blockSize);
    const decoded = withImage(blockSize + 1);
    const stored = (keys: readonly BlockKey[], from: number, to: number, extras: readonly unknown[]) => {
      const parent = keys[from - 1];
      const hashes = keys.slice(from, to).map(wireHash);
      const ids = tokens.slice(from * blockSize, to * blockSize);
      return ["BlockStored", hashes, parent === undefined ? null : wireHash(parent), ids, blockSize, null, "GPU", null, extras];
    };
    await publisher.publish([stored(prompt, 0, 1, [["img"]])]);
    await publisher.publish([stored(decoded, 1, 2, [["img"]])]);
    await bed.expectHeld(address, decoded, [1, 1, 0]);
    await bed.expectHeld(address, prompt, [1, 0, 0]);
    // The engine hits block 0 alone, and stores the rest once more under the keys that lookups ask for.
    await publisher.publish([stored(prompt, 1, 3, [null, null])]);
    await bed.expectHeld(address, prompt, [1, 1, 1]);
    expect(await rig.metric("kvatlas_ingester_checked_blocks_total", { result: "different" })).toBe(0);
    expect((await recordOf(store, address))?.meta.findings).toEqual({});
  });

  it("is not misled by an engine's clock that is far off or goes back", async () => {
    const { publisher, rig } = await rigged();
    const prompts = [1, 2, 3].map((seed) => new TestPrompt(seed, 1));
    for (const [i, timestamp] of [9_999_999_999, 5, 4_000_000_000].entries()) {
      await publisher.publish([prompts[i]?.stored() ?? []], { timestamp });
    }
    for (const prompt of prompts) await bed.expectHeld(address, prompt.keys, [1]);
    expect(await rig.metric("kvatlas_ingester_lost_gaps_total")).toBe(0);
    // By the ingester's clock alone.
    await eventually(async () => expect(await rig.metric("kvatlas_ingester_lag_seconds")).toBe(0));
  });
});
