import { isKvatlasError } from "@kvatlas/shared/errors";
import { decodeEventBatch } from "@kvatlas/shared/events/vllm-decoder";
import { encode } from "@msgpack/msgpack";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { readRecording, recordingFiles } from "../support/recordings.ts";

/** Stored, removed and cleared events of the live frames, and stored hashes among them: counted by the recorder. */
const counts: Readonly<Record<string, readonly [number, number, number, number]>> = {
  "v0.10.1-sha256cbor64bit-b16.jsonl": [37, 41, 1, 160],
  "v0.11.2-array-b16.jsonl": [37, 41, 1, 160],
  "v0.22.1-array-b16.jsonl": [36, 40, 1, 159],
  "v0.32-central-two-engines-b16.jsonl": [29, 0, 0, 62],
  "v0.32-chats-b16.jsonl": [53, 0, 0, 89],
  "v0.32-chunked-prefill-b16.jsonl": [36, 0, 0, 317],
  "v0.32-evictions-b16.jsonl": [140, 367, 0, 461],
  "v0.32-hybrid-gemma3-b32.jsonl": [87, 0, 0, 118],
  "v0.32-lora-b32.jsonl": [14, 0, 0, 31],
  "v0.32-replay-b16.jsonl": [64, 26, 0, 118],
  "v0.32-request-forms-b16.jsonl": [32, 0, 0, 73],
  "v0.32-sha256-b64.jsonl": [32, 0, 0, 53],
  "v0.32-xxhash-b32.jsonl": [17, 0, 0, 34],
};

describe("recordings of real engines", () => {
  it.each(recordingFiles())("%s: every frame is read, and nothing in it is passed over", (file) => {
    const seen = { stored: 0, removed: 0, cleared: 0 };
    let hashes = 0;
    for (const { endpoint, payload } of readRecording(file).frames) {
      const batch = decodeEventBatch(payload);
      expect(batch.skipped).toEqual(new Map());
      expect(batch.wireForm).toBe(file.startsWith("v0.32") ? "map" : "array");
      expect(batch.timestampSeconds).toBeGreaterThan(1.7e9);
      if (endpoint !== "live") continue;
      for (const event of batch.events) {
        seen[event.kind] += 1;
        if (event.kind === "stored") hashes += event.hashes.length;
      }
    }
    expect([seen.stored, seen.removed, seen.cleared, hashes]).toEqual(counts[file]);
  });
});

describe("arbitrary payloads", () => {
  const samples = recordingFiles().flatMap((file) =>
    readRecording(file)
      .frames.slice(0, 5)
      .map(({ payload }) => payload),
  );
  const readable = (payload: Uint8Array): boolean => {
    try {
      const batch = decodeEventBatch(payload);
      for (const event of batch.events) {
        if (event.kind === "cleared") continue;
        for (const hash of event.hashes) expect(hash).toMatch(/^[0-9a-f]{16}$/);
      }
      return true;
    } catch (error) {
      expect(isKvatlasError(error, "KVATLAS_EVENT_MALFORMED")).toBe(true);
      return false;
    }
  };

  it("are a batch or KVATLAS_EVENT_MALFORMED, never another error", () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 400 }), (payload) => void readable(payload)),
      { numRuns: 2000 },
    );
  });

  it("made from real ones by changing bytes behave the same", () => {
    const change = fc.tuple(fc.nat(5000), fc.nat(255));
    fc.assert(
      fc.property(fc.constantFrom(...samples), fc.array(change, { minLength: 1, maxLength: 5 }), (sample, changes) => {
        const payload = Uint8Array.from(sample);
        for (const [at, value] of changes) payload[at % payload.length] = value;
        readable(payload);
      }),
      { numRuns: 3000 },
    );
  });

  it("keep their good events beside any value whatever", () => {
    const good = ["BlockRemoved", [9], "GPU", 0];
    fc.assert(
      fc.property(fc.array(fc.jsonValue({ maxDepth: 4 }), { maxLength: 6 }), (others) => {
        const { events } = decodeEventBatch(encode([1.5, [good, ...others, good], 0]));
        expect(events.filter((event) => event.kind === "removed" && event.hashes[0] === "0000000000000009")).toHaveLength(2);
      }),
      { numRuns: 1000 },
    );
  });
});

describe("encoded stores", () => {
  const uint64 = fc.bigInt({ min: 0n, max: 2n ** 64n - 1n });
  const hash = fc.oneof(uint64, fc.uint8Array({ minLength: 8, maxLength: 40 }), fc.nat(), fc.bigInt({ min: -(2n ** 63n), max: -1n }));
  const low64 = (value: bigint | number | Uint8Array): string => {
    if (value instanceof Uint8Array) return Buffer.from(value.subarray(-8)).toString("hex");
    return BigInt.asUintN(64, BigInt(value)).toString(16).padStart(16, "0");
  };

  it("come back as they were, as arrays and as maps", () => {
    const tokens = fc.array(fc.oneof(fc.nat(300), fc.integer({ min: 0, max: 2 ** 32 - 1 })), { maxLength: 40 });
    fc.assert(
      fc.property(
        fc.array(hash, { maxLength: 8 }),
        fc.option(hash),
        tokens,
        fc.nat(4096),
        fc.option(fc.string()),
        (hashes, parent, ids, size, name) => {
          const fields: [string, unknown][] = [
            ["block_hashes", hashes],
            ["parent_block_hash", parent],
            ["token_ids", ids],
            ["block_size", size],
            ["lora_id", null],
            ["medium", "CPU"],
            ["lora_name", name],
            ["extra_keys", hashes.map((_, i) => (i % 2 === 0 ? null : [["id", -i], "salt"]))],
          ];
          const asArray = ["BlockStored", ...fields.map(([, value]) => value)];
          const asMap = Object.fromEntries([["type", "BlockStored"], ...fields]);
          const { events, skipped } = decodeEventBatch(encode([0.5, [asArray, asMap], 7], { useBigInt64: true }));
          expect(skipped.size).toBe(0);
          expect(events[0]).toEqual(events[1]);
          expect(events[0]).toEqual({
            kind: "stored",
            hashes: hashes.map(low64),
            parent: parent === null ? null : low64(parent),
            tokenIds: ids,
            blockSizeTokens: size,
            medium: "cpu",
            loraId: null,
            loraName: name,
            extraKeys: hashes.map((_, i) => (i % 2 === 0 ? null : [["id", -i], "salt"])),
            group: 0,
            specKind: null,
            slidingWindowTokens: null,
            lookahead: null,
          });
        },
      ),
      { numRuns: 500 },
    );
  });
});
