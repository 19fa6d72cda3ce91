import { hash } from "node:crypto";
import { decodeEventBatch } from "@kvatlas/shared/events/vllm-decoder";
import { createBlockHasher } from "@kvatlas/shared/hashing/block-hasher";
import { hashAlgorithms, type KeyScheme } from "@kvatlas/shared/hashing/key-scheme";
import { decode, encode } from "@msgpack/msgpack";

const blocks = 750;
const blockSizeTokens = 16;
const rounds = 200;

/**
 * Block keys of a cold prompt of 12,000 tokens under every scheme, and decoding of a batch of 100 blocks. Each beside its floor in the same run: SHA-256
 * of as many bytes and nothing else; a tree from @msgpack/msgpack with its hashes turned into digits.
 */
export async function run(): Promise<object> {
  const tokenIds = Uint32Array.from({ length: blocks * blockSizeTokens }, (_, i) => (i * 7919 + 13) % 152_064);
  const schemes: readonly KeyScheme[] = [
    ...hashAlgorithms.map((algorithm): KeyScheme => ({ kind: "native", algorithm, seed: "0" })),
    { kind: "content", seed: "" },
  ];
  const keys: Record<string, object> = {};
  for (const scheme of schemes) {
    const hasher = createBlockHasher({ scheme, blockSizeTokens, model: "m" });
    keys[scheme.kind === "native" ? scheme.algorithm : "content"] = measure(() => hasher.chain(tokenIds));
  }
  // A block of 16 ids above 65,535 is about 118 bytes of CBOR.
  const bytes = Buffer.alloc(118, 7);
  const floor = measure(() => {
    for (let i = 0; i < blocks; i++) hash("sha256", bytes, "hex");
  });

  const payload = batchOf(100);
  return {
    keysOf750Blocks: { unit: "ms", ...keys, floorSha256Alone: floor },
    decode100Blocks: {
      unit: "ms",
      bytes: payload.length,
      decodeEventBatch: measure(() => decodeEventBatch(payload)),
      floorMsgpackAndDigits: measure(() => digitsOf(payload)),
    },
  };
}

function measure(work: () => void): object {
  for (let i = 0; i < rounds / 4; i++) work();
  const times = Array.from({ length: rounds }, () => {
    const start = performance.now();
    work();
    return performance.now() - start;
  }).sort((a, b) => a - b);
  const at = (share: number): number => Number((times[Math.floor(rounds * share)] ?? 0).toFixed(4));
  return { min: at(0), p50: at(0.5), p99: at(0.99) };
}

function batchOf(count: number): Uint8Array {
  const store = {
    type: "BlockStored",
    block_hashes: Array.from({ length: count }, (_, i) => (BigInt(i + 1) * 0x9e37_79b9_7f4a_7c15n) % 2n ** 64n),
    parent_block_hash: null,
    token_ids: Array.from({ length: count * blockSizeTokens }, (_, i) => (i * 7919 + 13) % 152_064),
    block_size: blockSizeTokens,
    lora_id: null,
    medium: "GPU",
    lora_name: null,
    extra_keys: Array.from({ length: count }, () => null),
    group_idx: 0,
    kv_cache_spec_kind: "full_attention",
  };
  return encode([1_700_000_000.5, [store], 0], { useBigInt64: true });
}

function digitsOf(payload: Uint8Array): readonly string[] {
  const batch = decode(payload, { useBigInt64: true }) as [number, { block_hashes: bigint[] }[], number];
  return batch[1].flatMap((event) => event.block_hashes.map((value) => BigInt.asUintN(64, value).toString(16).padStart(16, "0")));
}
