import type { ScopeId } from "../types.ts";

/** Block-hash algorithms under vLLM's own names (`--prefix-caching-hash-algo`). */
export const hashAlgorithms = ["sha256", "sha256_cbor", "xxhash", "xxhash_cbor", "sha256_cbor_64bit"] as const;
export type HashAlgorithm = (typeof hashAlgorithms)[number];

/** The engine's own hash is the key: needs algorithm and seed (`PYTHONHASHSEED`, or `vllm-none-hash` when unset since 0.29). */
export interface NativeScheme {
  readonly kind: "native";
  readonly algorithm: HashAlgorithm;
  readonly seed: string;
}

/** Keys from token contents alone (xxh64 chain, llm-d-kv-cache's recipe): any engine, any seed. */
export interface ContentScheme {
  readonly kind: "content";
  readonly seed: string;
}

export type KeyScheme = NativeScheme | ContentScheme;

/**
 * How a release puts LoRA, media and salt into the hash (vLLM `v1/core/kv_cache_utils.py`):
 * `plain` 0.11.1-0.18 (media without offset), `offset` 0.19-0.30 (media with offset), `tagged` 0.31+ (tagged tuples, LoRA path).
 * Keys of requests without extras are the same in all three.
 */
export type ExtrasForm = "plain" | "offset" | "tagged";

/** What one scope is made of; two endpoints share a scope exactly when these agree. */
export interface ScopeSpec {
  readonly model: string;
  readonly blockSizeTokens: number;
  readonly scheme: KeyScheme;
}

/**
 * Short readable id of a scope, e.g. `qwen3-32b.b64.sha256_cbor_64bit.s42`: only `[a-z0-9._-]`, at most 96 characters; where
 * cleaning or cutting loses something, a short digest of the exact spec follows, so that different specs never share an id.
 */
export declare function scopeIdOf(spec: ScopeSpec): ScopeId;
