import { readFileSync } from "node:fs";
import { replay } from "@kvatlas/ingester/subscriber/replay-client";
import { isKvatlasError } from "@kvatlas/shared/errors";
import { decodeEventBatch } from "@kvatlas/shared/events/vllm-decoder";
import { silentLogger } from "@kvatlas/shared/logger";
import { encode } from "@msgpack/msgpack";
import { describe, expect, it, onTestFinished } from "vitest";
import { Router } from "zeromq";
import { type SeededRandom, seededRandom } from "../support/seeded-random.ts";

/** One run of `npm test` stops here; KVATLAS_FUZZ_MS asks for longer, KVATLAS_FUZZ_SEED for the same cases again. */
const budgetMs = Number(process.env.KVATLAS_FUZZ_MS ?? 20_000);
const seed = Number(process.env.KVATLAS_FUZZ_SEED ?? Date.now() % 4_294_967_296);
const cases = 1_000_000;
/** Decoded values may take this many times the payload, and no more. */
const maxHeapGrowthBytes = 256 * 1024 * 1024;

const golden: { readonly batches: readonly { readonly hex: string }[] } = JSON.parse(
  readFileSync(new URL("../fixtures/wire/golden-batches.json", import.meta.url), "utf8"),
);
const store = {
  type: "BlockStored",
  block_hashes: [1n << 63n, new Uint8Array(32), 7],
  parent_block_hash: null,
  token_ids: [1, 2, 300, 70_000, 5, 6],
  block_size: 2,
  lora_id: 1,
  medium: "GPU",
  lora_name: "a",
  extra_keys: [["a", ["media", -3], "salt"], null, ["a"]],
  group_idx: 1,
  kv_cache_spec_kind: "sliding_window",
  lookahead_token_ids: [[1], [2], [3]],
};
const seeds: readonly Uint8Array[] = [
  ...golden.batches.map(({ hex }) => Uint8Array.from(Buffer.from(hex, "hex"))),
  encode([1.5, [store, { type: "BlockRemoved", block_hashes: [5], medium: "CPU" }, { type: "AllBlocksCleared" }], 3], {
    useBigInt64: true,
  }),
  encode([1.5, [["BlockStored", [1, 2], null, [1, 2], 1, null, "GPU"], ["BlockRemoved", [1]], ["AllBlocksCleared"]], null]),
];
/** Heads of containers and strings that announce more than there is. */
const hugeHeads: readonly Uint8Array[] = [
  [0xdd, 0xff, 0xff, 0xff, 0xff],
  [0xdf, 0x7f, 0xff, 0xff, 0xff],
  [0xdb, 0xff, 0xff, 0xff, 0xff],
  [0xc6, 0xff, 0xff, 0xff, 0xff],
  [0xdc, 0xff, 0xff],
  [0xde, 0xff, 0xff],
  [0xc9, 0xff, 0xff, 0xff, 0xff, 0x01],
].map((head) => Uint8Array.from(head));
const nested = Uint8Array.from({ length: 4_096 }, (_, i) => (i % 2 === 0 ? 0x91 : 0x81));

function pickSeed(random: SeededRandom): Uint8Array {
  return seeds[random.between(0, seeds.length - 1)] ?? nested;
}

/** Puts payloads together without garbage of its own. */
class Scratch {
  readonly #bytes = new Uint8Array(16_384);
  #length = 0;

  joined(...parts: readonly Uint8Array[]): Uint8Array {
    this.#length = 0;
    for (const part of parts) {
      this.#bytes.set(part, this.#length);
      this.#length += part.length;
    }
    return this.#bytes.subarray(0, this.#length);
  }
}

function damaged(random: SeededRandom, scratch: Scratch): Uint8Array {
  const original = pickSeed(random);
  const at = random.between(0, original.length);
  const [head, tail] = [original.subarray(0, at), original.subarray(at)];
  switch (random.between(0, 6)) {
    case 0: {
      const bytes = scratch.joined(original);
      for (let flips = random.between(1, 8); flips > 0; flips--) {
        const place = random.between(0, bytes.length - 1);
        bytes[place] = (bytes[place] ?? 0) ^ (1 << random.between(0, 7));
      }
      return bytes;
    }
    case 1:
      return head;
    case 2:
      return scratch.joined(head, hugeHeads[random.between(0, hugeHeads.length - 1)] ?? nested, tail);
    case 3:
      return scratch.joined(head, nested.subarray(0, random.between(1, 600)), tail);
    case 4: {
      const other = pickSeed(random);
      return scratch.joined(head, other.subarray(random.between(0, other.length)));
    }
    case 5:
      return scratch.joined(tail, head);
    default: {
      const bytes = scratch.joined(nested.subarray(0, random.between(0, 64)));
      for (let i = 0; i < bytes.length; i++) bytes[i] = random.between(0, 255);
      return bytes;
    }
  }
}

describe("the event decoder", () => {
  it(`takes ${cases.toLocaleString("en")} damaged payloads or what ${budgetMs} ms allow, seed ${seed}`, {
    timeout: budgetMs + 60_000,
  }, () => {
    const random = seededRandom(seed);
    const scratch = new Scratch();
    const deadline = performance.now() + budgetMs;
    const heapBefore = process.memoryUsage().heapUsed;
    let done = 0;
    let decoded = 0;
    let heapPeak = heapBefore;
    // Most cases end in an error; its stack is the dearest part of them.
    const { stackTraceLimit } = Error;
    Error.stackTraceLimit = 0;
    onTestFinished(() => {
      Error.stackTraceLimit = stackTraceLimit;
    });
    for (; done < cases; done++) {
      if (done % 4_096 === 0) {
        heapPeak = Math.max(heapPeak, process.memoryUsage().heapUsed);
        if (performance.now() > deadline) break;
      }
      const payload = damaged(random, scratch);
      try {
        const batch = decodeEventBatch(payload);
        decoded++;
        let values = batch.events.length;
        for (const event of batch.events) {
          if (event.kind !== "cleared") values += event.hashes.length;
          if (event.kind === "stored") values += event.tokenIds.length;
        }
        // Every value has taken at least a byte on the wire.
        if (values > payload.length) throw new Error(`${values} values out of ${payload.length} bytes`);
      } catch (error) {
        if (isKvatlasError(error, "KVATLAS_EVENT_MALFORMED")) continue;
        throw new Error(`case ${done} of seed ${seed}: ${Buffer.from(payload).toString("hex")}`, { cause: error });
      }
    }
    process.stdout.write(`decoder fuzz: ${done} cases, ${decoded} decoded, seed ${seed}\n`);
    expect(done).toBeGreaterThan(0);
    expect(decoded).toBeGreaterThan(0);
    expect(heapPeak - heapBefore).toBeLessThan(maxHeapGrowthBytes);
  });
});

/** What a publisher out of its mind may send in answer to a replay request. */
function nonsense(random: SeededRandom, from: number): readonly Uint8Array[] {
  const seqFrame = (seq: bigint): Uint8Array => {
    const frame = Buffer.alloc(8);
    frame.writeBigUInt64BE(seq);
    return frame;
  };
  const empty = new Uint8Array(0);
  const near = seqFrame(BigInt(Math.max(0, from + random.between(0, 12) - 4)));
  const payload = pickSeed(random);
  return random.pick<readonly Uint8Array[]>([
    [empty, near, payload],
    [empty, new Uint8Array(3), near, payload],
    [empty, near, payload],
    [empty, seqFrame(2n ** 63n), payload],
    [empty, seqFrame(2n ** 53n - 1n), payload],
    [empty, new Uint8Array(random.between(0, 20)), payload],
    [payload],
    [payload, near, payload],
    [empty, near, payload, payload, payload],
    [empty, empty, seqFrame(2n ** 64n - 1n), empty],
  ]);
}

describe("the replay client", () => {
  it(`ends, takes each number once and in order, whatever it is answered, seed ${seed}`, { timeout: 60_000 }, async () => {
    const random = seededRandom(seed);
    const router = new Router({ linger: 0, sendHighWaterMark: 0 });
    await router.bind("tcp://127.0.0.1:*");
    const address = router.lastEndpoint ?? "";
    const serving = (async () => {
      while (!router.closed) {
        const [identity, , start] = await router.receive().catch(() => []);
        if (identity === undefined || start === undefined) continue;
        const from = Number(start.readBigUInt64BE());
        for (let i = random.between(0, 20); i > 0; i--) await router.send([identity, ...nonsense(random, from)]);
      }
    })();
    onTestFinished(async () => {
      router.close();
      await serving;
    });
    for (let round = 0; round < 100; round++) {
      const taken: number[] = [];
      const outcome = await replay(
        {
          onFrame: async ({ seq }) => {
            taken.push(seq);
            return random.chance(0.02) ? "stop" : "continue";
          },
          onHole: async (_, __, confirmed) => (confirmed ? "accept" : random.pick(["accept", "retry", "stop"])),
        },
        { logger: silentLogger },
        address,
        random.between(0, 50),
        { silenceMs: 20, maxAttempts: 3, maxBufferedBytes: random.between(1, 4_096), signal: new AbortController().signal },
      );
      expect(["complete", "stopped", "silent"]).toContain(outcome.kind);
      expect(taken).toEqual([...new Set(taken)].sort((a, b) => a - b));
    }
  });

  it("gives a publisher up that sends what nobody has asked for, without end", { timeout: 60_000 }, async () => {
    const router = new Router({ linger: 0, sendHighWaterMark: 1_000 });
    await router.bind("tcp://127.0.0.1:*");
    const old = Buffer.alloc(8);
    const serving = (async () => {
      while (!router.closed) {
        const [identity] = await router.receive().catch(() => []);
        if (identity === undefined) continue;
        for (let i = 0; i < 50_000 && !router.closed; i++) {
          await router.send([identity, new Uint8Array(0), old, new Uint8Array(100)]).catch(() => {});
        }
      }
    })();
    onTestFinished(async () => {
      router.close();
      await serving;
    });
    const outcome = await replay(
      { onFrame: async () => "continue", onHole: async () => "accept" },
      { logger: silentLogger },
      router.lastEndpoint ?? "",
      7,
      { silenceMs: 2_000, maxAttempts: 2, maxBufferedBytes: 1_000, signal: new AbortController().signal },
    );
    expect(outcome).toEqual({ kind: "silent", next: 7, frames: 0 });
  });
});
