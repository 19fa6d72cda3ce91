import { readFileSync } from "node:fs";
import { encode } from "@msgpack/msgpack";
import { describe, expect, it } from "vitest";
import type { BlockStored, EventBatch } from "./events.ts";
import { decodeEventBatch } from "./vllm-decoder.ts";

const fixture = new URL("../../../../test/fixtures/wire/golden-batches.json", import.meta.url);
const golden: { batches: { name: string; hex: string }[] } = JSON.parse(readFileSync(fixture, "utf8"));

const hashes = ["b0147556276afc9c", "192dd62904fcccac", "25a719adc68e654f"];
const pack = (value: unknown): Uint8Array => encode(value, { useBigInt64: true });
const decodeEvents = (...events: unknown[]): EventBatch => decodeEventBatch(pack([1.5, events, 0]));
const skipped = (batch: EventBatch): Record<string, number> => Object.fromEntries(batch.skipped);

function onlyStore(batch: EventBatch): BlockStored {
  const [event] = batch.events;
  if (event?.kind !== "stored" || batch.events.length !== 1) throw new Error(`expected one store, got ${JSON.stringify(batch.events)}`);
  return event;
}

/** A store as 0.24 and later send it. */
function store(changes: Record<string, unknown> = {}): Record<string, unknown> {
  return {
    type: "BlockStored",
    block_hashes: [1n << 63n, 2],
    parent_block_hash: null,
    token_ids: [1, 2, 3, 4],
    block_size: 2,
    lora_id: null,
    medium: "GPU",
    lora_name: null,
    ...changes,
  };
}

describe("batches as msgspec writes them", () => {
  it.each(golden.batches)("$name", ({ name, hex }) => {
    const batch = decodeEventBatch(Buffer.from(hex, "hex"));
    const everything = name.includes("every field");
    expect(batch).toMatchObject({ timestampSeconds: 1.5, rank: 0, skipped: new Map() });
    expect(batch.wireForm).toBe(name.startsWith("array") ? "array" : name.startsWith("map16") ? "map16" : "map");
    const base = {
      kind: "stored",
      hashes,
      parent: null,
      tokenIds: Array.from({ length: 48 }, (_, i) => i),
      blockSizeTokens: 16,
      medium: "gpu",
    };
    const full = {
      loraId: 1,
      loraName: "my-lora",
      extraKeys: [["my-lora", ["abc", 3], "s1"], ["my-lora", ["abc", -13]], ["my-lora"]],
      group: 1,
      specKind: "sliding_window",
      slidingWindowTokens: 1024,
      lookahead: name.startsWith("map16") ? [[16], [32], [48]] : null,
    };
    const map = { extraKeys: [null, null, null], specKind: "full_attention" };
    const bare = { loraId: null, loraName: null, extraKeys: null, group: 0, specKind: null, slidingWindowTokens: null, lookahead: null };
    expect(batch.events).toEqual([
      { ...base, ...bare, ...(everything ? full : name.startsWith("map") ? map : {}) },
      { kind: "removed", hashes: [hashes[2]], medium: "gpu", group: everything ? 1 : 0 },
      { kind: "cleared" },
    ]);
  });
});

describe("forms that no release sends but that are read", () => {
  it("reads an outer map, in any order and with further fields", () => {
    const batch = decodeEventBatch(pack({ later: { a: [1] }, data_parallel_rank: 3, events: [store()], ts: 2 }));
    expect(batch).toMatchObject({ timestampSeconds: 2, rank: 3, wireForm: "map" });
    expect(onlyStore(batch).hashes).toEqual(["8000000000000000", "0000000000000002"]);
  });

  it("reads arrays of every length from 5 and 2 on, and longer ones than are known", () => {
    const fields = ["BlockStored", [1], null, [7], 1, null, "CPU", "l", [null], 2, "mamba", 64, "LOCAL", "o", "s", [[9]], { later: 1 }];
    for (let length = 5; length <= fields.length; length++) {
      const event = onlyStore(decodeEvents(fields.slice(0, length)));
      expect(event).toMatchObject({ tokenIds: [7], medium: length > 6 ? "cpu" : "gpu", group: length > 9 ? 2 : 0 });
    }
    const removed = ["BlockRemoved", [1], "cpu", 3, null, null, 5];
    for (let length = 2; length <= removed.length; length++) {
      expect(decodeEvents(removed.slice(0, length)).events).toEqual([
        { kind: "removed", hashes: ["0000000000000001"], medium: length > 2 ? "cpu" : "gpu", group: length > 3 ? 3 : 0 },
      ]);
    }
  });

  it("finds the tag wherever it stands", () => {
    expect(decodeEvents({ medium: null, block_hashes: [5], type: "BlockRemoved" }).events).toEqual([
      { kind: "removed", hashes: ["0000000000000005"], medium: "gpu", group: 0 },
    ]);
  });

  it("takes the wire form of the first event that tells", () => {
    const wide = Object.fromEntries(Array.from({ length: 12 }, (_, i) => [`later_${i}`, i]));
    const removed = { type: "BlockRemoved", block_hashes: [], medium: null };
    expect(decodeEvents(removed, store(wide)).wireForm).toBe("map16");
    expect(decodeEvents(removed, store()).wireForm).toBe("map");
    expect(decodeEvents(removed).wireForm).toBe("map");
    expect(decodeEvents(["AllBlocksCleared"]).wireForm).toBe("array");
    expect(decodeEvents().wireForm).toBeNull();
  });
});

describe("hashes", () => {
  it.each([
    [7, "0000000000000007"],
    [200, "00000000000000c8"],
    [60_000, "000000000000ea60"],
    [4_000_000_000, "00000000ee6b2800"],
    [0xfedc_ba98_7654_3210n, "fedcba9876543210"],
    [-1, "ffffffffffffffff"],
    [-100, "ffffffffffffff9c"],
    [-30_000, "ffffffffffff8ad0"],
    [-2_000_000_000, "ffffffff88ca6c00"],
    [-0x7edc_ba98_7654_3210n, "81234567 89abcdf0".replace(" ", "")],
    [Buffer.from("00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff", "hex"), "8899aabbccddeeff"],
    [Buffer.from("0102", "hex"), "0000000000000102"],
    [Buffer.alloc(300, 0xab), "abababababababab"],
  ])("%s is %s", (value, expected) => {
    expect(onlyStore(decodeEvents(store({ block_hashes: [value], parent_block_hash: value }))).hashes).toEqual([expected]);
    expect(onlyStore(decodeEvents(store({ block_hashes: [value], parent_block_hash: value }))).parent).toBe(expected);
  });

  it("that cannot be read cost the store its positions, not its other hashes", () => {
    const batch = decodeEvents(store({ block_hashes: [1, "x", null, 2.5, Buffer.alloc(0), [1], 3] }), ["AllBlocksCleared"]);
    expect(batch.events).toHaveLength(2);
    expect(batch.events[0]).toMatchObject({ hashes: ["0000000000000001", "0000000000000003"], tokenIds: [], parent: null });
    expect(skipped(batch)).toEqual({ "bad hash": 5 });
  });
});

describe("media", () => {
  it.each([
    [null, "gpu"],
    ["GPU", "gpu"],
    ["CPU", "cpu"],
    ["cpu", "cpu"],
    ["FS", "storage"],
    ["OBJ", "storage"],
    ["STORAGE", "storage"],
  ])("%s is %s", (medium, expected) => {
    const batch = decodeEvents(store({ medium }));
    expect(onlyStore(batch).medium).toBe(expected);
    expect(batch.skipped.size).toBe(0);
  });

  it.each([["TAPE"], [17], [{ name: "GPU" }]])("%j is other, and counted", (medium) => {
    const batch = decodeEvents(store({ medium }), ["BlockRemoved", [1], medium]);
    expect(batch.events).toMatchObject([{ medium: "other" }, { medium: "other" }]);
    expect(skipped(batch)).toEqual({ "unknown medium": 2 });
  });
});

describe("one bad event never drops its batch", () => {
  const good = ["BlockRemoved", [9], "GPU"];

  it.each<[unknown, string]>([
    [["BlockEvicted", [1]], "unknown tag"],
    [{ type: "TierBlocksCleared", tier: "CPU" }, "unknown tag"],
    [{ type: 5 }, "unknown tag"],
    [{ block_hashes: [1] }, "unknown tag"],
    [[], "short event"],
    [["BlockStored", [1], null, [1]], "short event"],
    [["BlockRemoved"], "short event"],
    [{ type: "BlockStored", token_ids: [1] }, "no hashes"],
    [store({ block_hashes: 5 }), "no hashes"],
    [5, "not an event"],
    ["BlockStored", "not an event"],
    [null, "not an event"],
    [store({ group_idx: "a" }), "bad group"],
    [store({ group_idx: -1 }), "bad group"],
    [store({ group_idx: 2 ** 31 }), "bad group"],
  ])("%o: %s", (bad, reason) => {
    const batch = decodeEvents(bad, good);
    expect(batch.events).toEqual([{ kind: "removed", hashes: ["0000000000000009"], medium: "gpu", group: 0 }]);
    expect(skipped(batch)).toEqual({ [reason]: 1 });
  });

  it.each<[Record<string, unknown>, string]>([
    [{ token_ids: [1, -2] }, "bad token ids"],
    [{ token_ids: [1, 2.5] }, "bad token ids"],
    [{ token_ids: [2 ** 32] }, "bad token ids"],
    [{ token_ids: "1234" }, "bad token ids"],
    [{ token_ids: [[1]] }, "bad token ids"],
    [{ parent_block_hash: "x" }, "bad parent"],
    [{ block_size: -1 }, "bad block size"],
    [{ extra_keys: [true, null] }, "bad extra keys"],
    [{ extra_keys: [[{ a: 1 }], null] }, "bad extra keys"],
    [{ extra_keys: "x" }, "bad extra keys"],
    [{ extra_keys: [null] }, "extra keys do not pair with hashes"],
    [{ lookahead_token_ids: [[1], "x"] }, "bad lookahead"],
    [{ lookahead_token_ids: 7 }, "bad lookahead"],
    [{ lookahead_token_ids: [[1]] }, "lookahead does not pair with hashes"],
    [{ lora_name: 5 }, "bad lora name"],
    [{ lora_id: "x" }, "bad lora id"],
  ])("%j keeps the hashes and loses the positions: %s", (changes, reason) => {
    const batch = decodeEvents(store(changes), good);
    expect(batch.events).toHaveLength(2);
    expect(batch.events[0]).toMatchObject({
      hashes: ["8000000000000000", "0000000000000002"],
      parent: null,
      tokenIds: [],
      extraKeys: null,
      lookahead: null,
    });
    expect(skipped(batch)).toEqual({ [reason]: 1 });
  });

  it("counts fields that matter little and goes on", () => {
    const batch = decodeEventBatch(pack(["now", [store({ kv_cache_spec_kind: 5, kv_cache_spec_sliding_window: "w" })], "zero"]));
    expect(onlyStore(batch)).toMatchObject({ tokenIds: [1, 2, 3, 4], specKind: null, slidingWindowTokens: null });
    expect(batch).toMatchObject({ timestampSeconds: 0, rank: 0 });
    expect(skipped(batch)).toEqual({ "bad timestamp": 1, "bad rank": 1, "bad field": 2 });
  });

  it("reads extras of every kind, and none deeper than is sensible", () => {
    const extras = ["l", ["id", -3], Buffer.from("digest"), 2n ** 63n, null, ["cache_salt", "s"], 1.5];
    const event = onlyStore(decodeEvents(store({ extra_keys: [extras, null] })));
    expect(event.extraKeys).toEqual([
      ["l", ["id", -3], new Uint8Array(Buffer.from("digest")), 2n ** 63n, null, ["cache_salt", "s"], 1.5],
      null,
    ]);
    let deep: unknown = [];
    for (let i = 0; i < 50; i++) deep = [deep];
    expect(skipped(decodeEvents(store({ extra_keys: [deep, null] })))).toEqual({ "bad extra keys": 1 });
  });

  it("keeps nothing of the payload", () => {
    const payload = pack([1, [store({ extra_keys: [[Buffer.from("abc"), "salt"], null] })], 0]);
    const batch = decodeEventBatch(payload);
    const before = structuredClone(batch.events);
    payload.fill(0xff);
    expect(batch.events).toEqual(before);
  });
});

describe("payloads that are no batch", () => {
  it.each([
    ["", "nothing"],
    ["c0", "nil"],
    ["a5", "a cut string"],
    ["91cb3ff8000000000000", "a batch without events"],
    ["92cb3ff8000000000000c0", "events that are no array"],
    ["93cb3ff80000000000009000ff", "bytes after the batch"],
    ["80", "an empty map"],
  ])("%s: %s", (hex) => {
    expect(() => decodeEventBatch(Buffer.from(hex, "hex"))).toThrowError(expect.objectContaining({ code: "KVATLAS_EVENT_MALFORMED" }));
  });

  it("includes every prefix of a real one", () => {
    for (const { hex } of golden.batches) {
      const payload = Buffer.from(hex, "hex");
      for (let length = 0; length < payload.length; length++) {
        expect(() => decodeEventBatch(payload.subarray(0, length))).toThrowError(
          expect.objectContaining({ code: "KVATLAS_EVENT_MALFORMED" }),
        );
      }
    }
  });

  it("does not allocate what a head declares", () => {
    const heads = ["dd7fffffff", "df7fffffff", "c6ffffffff", "dbffffffff", "c9ffffffff01"];
    for (const head of heads) {
      const nested = Buffer.from(head.repeat(1000), "hex");
      for (const start of [
        "",
        "93cb3ff800000000000091",
        "93cb3ff80000000000009183a474797065ab426c6f636b53746f726564aa65787472615f6b657973",
      ]) {
        const payload = Buffer.concat([Buffer.from(start, "hex"), nested]);
        expect(() => decodeEventBatch(payload)).toThrowError(expect.objectContaining({ code: "KVATLAS_EVENT_MALFORMED" }));
      }
    }
    // A hundred thousand arrays within each other, each declaring all the bytes that follow.
    const depth = 100_000;
    const tower = Buffer.alloc(depth * 5);
    for (let i = 0; i < depth; i++) {
      tower[i * 5] = 0xdd;
      tower.writeUInt32BE((depth - i - 1) * 5, i * 5 + 1);
    }
    expect(() => decodeEventBatch(tower)).toThrowError(expect.objectContaining({ code: "KVATLAS_EVENT_MALFORMED" }));
  });
});
