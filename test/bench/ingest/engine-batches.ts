import { type BlockHasher, createBlockHasher } from "@kvatlas/shared/hashing/block-hasher";
import { shardOf } from "@kvatlas/shared/index/redis-keys";
import type { BlockKey } from "@kvatlas/shared/types";
import { encode } from "@msgpack/msgpack";

export const blocksPerBatch = 64;
const blockSizeTokens = 16;
/** Reproducible by the ingester, so that it takes the engine's hashes for keys. */
export const keyScheme = { kind: "native", algorithm: "xxhash", seed: "0" } as const;
export const model = "m";
const vocabulary = 151_936;

/** An encoded batch and how many block operations it is. */
export interface EncodedBatch {
  readonly payload: Uint8Array;
  readonly operations: number;
  /** Shards of the index that its blocks fall to. */
  readonly shards: readonly number[];
}

/**
 * What one engine sends, as vLLM 0.24 to 0.32 writes it: each batch stores 64 fresh blocks of a prompt of its own and, when told to, removes the 64
 * that it has held for longest.
 */
export class EngineBatches {
  readonly #hasher: BlockHasher;
  readonly #held: (readonly BlockKey[])[] = [];
  readonly #engine: number;
  readonly #shards: number;
  #batches = 0;

  /**
   * @param engine - number of the engine; no two have a block in common
   * @param shards - of the index
   */
  constructor(engine: number, shards: number) {
    this.#engine = engine;
    this.#shards = shards;
    this.#hasher = createBlockHasher({ scheme: keyScheme, blockSizeTokens, model });
  }

  next(removes: boolean): EncodedBatch {
    const batch = this.#batches++;
    const tokens = Array.from({ length: blocksPerBatch * blockSizeTokens }, (_, i) => (batch * 7 + i * 31) % vocabulary);
    // Tell prompts apart, beyond what the vocabulary could.
    tokens[0] = this.#engine;
    tokens[1] = batch;
    const { keys } = this.#hasher.chain(tokens);
    const hashes = keys.map(onTheWire);
    this.#held.push(keys);
    const removed = removes ? (this.#held.shift() ?? []) : [];
    const stored = {
      type: "BlockStored",
      block_hashes: hashes,
      parent_block_hash: null,
      token_ids: tokens,
      block_size: blockSizeTokens,
      lora_id: null,
      medium: "GPU",
      lora_name: null,
      extra_keys: hashes.map(() => null),
      group_idx: 0,
      kv_cache_spec_kind: "full_attention",
    };
    const gone = { type: "BlockRemoved", block_hashes: removed.map(onTheWire), medium: "GPU", group_idx: 0 };
    const events = removed.length > 0 ? [gone, stored] : [stored];
    const secondsSinceStart = batch / 100;
    return {
      payload: encode([1_790_000_000.5 + secondsSinceStart, events, 0], { useBigInt64: true }),
      operations: keys.length + removed.length,
      shards: [...new Set([...keys, ...removed].map((key) => shardOf(key, this.#shards)))],
    };
  }
}

function onTheWire(key: BlockKey): bigint {
  return BigInt(`0x${key}`);
}
