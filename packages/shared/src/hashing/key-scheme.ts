import { hash } from "node:crypto";
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

/** Longest scope id in characters: it is part of every Redis key, so it stays short. */
const maxScopeIdLength = 96;
/** 48 bits: enough that the few scopes of one deployment never meet. */
const digestHexDigits = 12;

/**
 * Short readable id of a scope, e.g. `qwen3-32b.b64.sha256_cbor_64bit.s42`: only `[a-z0-9._-]`, at most 96 characters; where
 * cleaning or cutting loses something, a short digest of the exact spec follows, so that different specs never share an id.
 */
export function scopeIdOf(spec: ScopeSpec): ScopeId {
  const { model, blockSizeTokens, scheme } = spec;
  const algorithm = scheme.kind === "native" ? scheme.algorithm : "content";
  const tail = (seed: string): string => `.b${blockSizeTokens}.${algorithm}.s${seed}`;

  // A dot in the seed would make the last parts of an id ambiguous, so it counts as something to clean.
  const cleanSeed = clean(scheme.seed).replaceAll(".", "-");
  const cleanModel = clean(model.split("/").findLast((part) => part !== "") ?? "");
  const id = cleanModel + tail(cleanSeed);
  if (cleanModel === model && cleanSeed === scheme.seed && id.length <= maxScopeIdLength) return id as ScopeId;

  // The last part of an exact id begins with "s", that of a digested one with "x": the two kinds never meet.
  const digest = hash("sha256", JSON.stringify([model, blockSizeTokens, scheme.kind, algorithm, scheme.seed]), "hex");
  const end = `${tail(cleanSeed.slice(0, 24))}.x${digest.slice(0, digestHexDigits)}`;
  return (cleanModel.slice(0, maxScopeIdLength - end.length) + end) as ScopeId;
}

/** True when both schemes give the same keys for the same prompt. */
export function sameScheme(a: KeyScheme, b: KeyScheme): boolean {
  if (a.seed !== b.seed) return false;
  return a.kind === "native" ? b.kind === "native" && a.algorithm === b.algorithm : b.kind === "content";
}

function clean(text: string): string {
  return text.toLowerCase().replaceAll(/[^a-z0-9._-]/g, "-");
}
