import { type HashAlgorithm, hashAlgorithms, type NativeScheme } from "./key-scheme.ts";

/** Seeds seen in the field: the constant of vLLM 0.29 and on when PYTHONHASHSEED is unset, and what deployment guides set. */
const usualSeeds = ["vllm-none-hash", "0", "42"];

/** What is known beforehand about an endpoint's hashing. */
export interface SchemeHints {
  /** From configuration; tried first. `content` settles the scheme without looking. */
  readonly algorithm?: HashAlgorithm | "content" | null;
  readonly seed?: string | null;
  /** Algorithms the engine itself names, e.g. in `vllm:cache_config_info`; unknown names are passed over. */
  readonly engineAlgorithms?: readonly string[];
}

/** Native schemes to try, most likely first, none twice: `assumed`, then what the hints name, then what is usual. */
export function candidateSchemes(hints: SchemeHints, assumed: NativeScheme | null = null): readonly NativeScheme[] {
  const named = [assumed?.algorithm, hints.algorithm, ...(hints.engineAlgorithms ?? [])];
  const algorithms = new Set<HashAlgorithm>([
    ...named.flatMap((name) => hashAlgorithms.filter((algorithm) => algorithm === name)),
    ...hashAlgorithms,
  ]);
  const told = [assumed?.seed, hints.seed].filter((seed) => seed !== undefined && seed !== null);
  const seeds = new Set([...told, ...usualSeeds]);
  return [...algorithms].flatMap((algorithm) => [...seeds].map((seed): NativeScheme => ({ kind: "native", algorithm, seed })));
}

/**
 * Hash block sizes to try for an event with blocks of `blockSizeTokens`: itself, then what divides it, descending. Cache groups of a hybrid model have
 * blocks of several hash blocks (vLLM 0.12 and on); the hash block is the greatest common divisor of the groups' sizes.
 */
export function candidateBlockSizes(blockSizeTokens: number): readonly number[] {
  const sizes: number[] = [];
  for (let parts = 1; parts <= blockSizeTokens; parts++) if (blockSizeTokens % parts === 0) sizes.push(blockSizeTokens / parts);
  return sizes;
}
