import { type BlockHasher, createBlockHasher, type KeyExtras } from "@kvatlas/shared/hashing/block-hasher";
import type { EngineProfile } from "./engine-profile.ts";
import type { ResolvedOptions } from "./options.ts";

/** Block hashes of one engine process, in the form its pool and its events use. */
export interface HashChain {
  /** One hash per full block: 16 hex digits, or the whole digest in hex where events carry bytes. */
  hashes(tokenIds: Uint32Array, extras: KeyExtras): readonly string[];
}

export type HashChainOptions = Pick<ResolvedOptions, "model" | "blockSizeTokens" | "hashAlgorithm" | "lookaheadTokens" | "bytesHashes"> & {
  readonly profile: Pick<EngineProfile, "extrasForm">;
};

/**
 * @param seed - the effective seed: PYTHONHASHSEED, or what the release does without one (`unsetSeed`)
 */
export function createHashChain(options: HashChainOptions, seed: string): HashChain {
  const hasher = createBlockHasher({
    scheme: { kind: "native", algorithm: options.hashAlgorithm, seed },
    blockSizeTokens: options.blockSizeTokens,
    model: options.model,
    extrasForm: options.profile.extrasForm,
    lookaheadTokens: options.lookaheadTokens,
  });
  if (!options.bytesHashes) return { hashes: (tokenIds, extras) => hasher.chain(tokenIds, extras).keys };
  return { hashes: (tokenIds, extras) => digests(hasher, tokenIds, extras, options.lookaheadTokens) };
}

/** Whole digests, block by block: the hasher shows the digest of the last block of a chain only. */
function digests(hasher: BlockHasher, tokenIds: Uint32Array, extras: KeyExtras, lookaheadTokens: number): string[] {
  const result: string[] = [];
  const size = hasher.blockSizeTokens;
  let state: Parameters<BlockHasher["chain"]>[2];
  for (let end = size; end + lookaheadTokens <= tokenIds.length; end += size) {
    state = hasher.chain(tokenIds.subarray(0, end + lookaheadTokens), extras, state).end;
    result.push(state.parent);
  }
  return result;
}
