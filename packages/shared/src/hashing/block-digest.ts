import type { BlockKey } from "../types.ts";
import { createContentDigest } from "./content-digest.ts";
import type { HashTuple } from "./hash-value.ts";
import type { KeyScheme } from "./key-scheme.ts";
import { createNativeDigest } from "./native-digest.ts";

/**
 * The hash of one block from an explicit parent, under one scheme. Parents and digests are lower-case hex; the last 16 digits of a digest are
 * the block's key, the whole of it is the parent of the next block. Reuses one scratch buffer that grows to the largest block seen.
 */
export interface BlockDigest {
  /** Parent of block 0. Depends on the LoRA adapter under the content scheme only. */
  root(loraName: string | null): string;
  /**
   * Digest of the block `tokenIds[from..to)`.
   *
   * @param extras - the block's extra keys as its scheme hashes them; null when it has none
   * @param lookahead - the tokens after the block that are part of its hash (vLLM 0.33 with EAGLE or MTP); null when the engine hashes none
   * @throws KVATLAS_REQUEST_INVALID a token id is not in 0..2^32-1, or an extra key is a fraction
   */
  next(
    parent: string,
    tokenIds: ArrayLike<number>,
    from: number,
    to: number,
    extras: HashTuple | null,
    lookahead: readonly number[] | null,
  ): string;
}

export function createBlockDigest(scheme: KeyScheme, model: string): BlockDigest {
  return scheme.kind === "native" ? createNativeDigest(scheme) : createContentDigest(scheme.seed, model);
}

/** Key of the block whose digest this is: its low 64 bits, which is what an engine puts on the wire. */
export function keyOfDigest(digest: string): BlockKey {
  return digest.slice(-16) as BlockKey;
}
