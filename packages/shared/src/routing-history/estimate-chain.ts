import { xxh64 } from "@node-rs/xxhash";
import type { BlockKey, ScopeId } from "../types.ts";

/** Blocks of one prompt that are remembered; what comes after is as if nobody knew it. */
export const maxEstimateBlocks = 2_048;

/**
 * Keys of the whole blocks at the front of a prompt: `key_i = XXH64(bytes of block i, seed = key_(i-1))`, where `key_-1 = XXH64(root)`. Keys of this
 * recipe are compared with each other only, so they need not be an engine's.
 *
 * @param bytes of the prompt: its token ids, or its text
 * @param root everything else that tells prompts apart
 */
export function estimateKeys(bytes: Uint8Array, blockBytes: number, root: string): readonly BlockKey[] {
  const blocks = Math.min(maxEstimateBlocks, Math.floor(bytes.byteLength / blockBytes));
  const keys: BlockKey[] = [];
  let parent = xxh64(root);
  for (let i = 0; i < blocks; i++) {
    parent = xxh64(bytes.subarray(i * blockBytes, (i + 1) * blockBytes), parent);
    keys.push(parent.toString(16).padStart(16, "0") as BlockKey);
  }
  return keys;
}

/** Every n-th key of a chain: it stands for those before it. */
export function everyNth(keys: readonly BlockKey[], n: number): readonly BlockKey[] {
  if (n <= 1) return keys.slice(0, maxEstimateBlocks);
  const some: BlockKey[] = [];
  for (let i = n - 1; i < keys.length && some.length < maxEstimateBlocks; i += n) {
    const key = keys[i];
    if (key !== undefined) some.push(key);
  }
  return some;
}

/** Namespace of estimates of a pool: chains of another unit or block size are others. */
export function estimateScope(pool: string, unit: "tokens" | "bytes", blockSize: number): ScopeId {
  return `estimate.${pool}.${unit}${blockSize}` as ScopeId;
}

/** Namespace of estimates by the keys of blocks, of which every n-th is remembered. */
export function sampledScope(scope: ScopeId, n: number): ScopeId {
  return `estimate.${scope}.every${n}` as ScopeId;
}
