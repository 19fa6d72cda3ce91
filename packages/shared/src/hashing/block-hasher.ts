import { KvatlasError } from "../errors.ts";
import type { BlockKey } from "../types.ts";
import { createBlockDigest, keyOfDigest } from "./block-digest.ts";
import type { ExtrasForm, KeyScheme } from "./key-scheme.ts";
import { extrasOfBlock, lacksKnowledge } from "./request-extras.ts";

/** One multimodal item of a prompt, in prompt order. */
export interface MediaItem {
  /** The engine's mm hash, or the user's uuid. */
  readonly identifier: string;
  /** Position of its first placeholder token in the prompt. */
  readonly offset: number;
  /** Placeholder tokens. */
  readonly length: number;
}

/** What besides the tokens goes into the keys of a request. */
export interface KeyExtras {
  readonly lora?: {
    readonly name: string /** As loaded by the engine (`/v1/models` data[].root); needed by `tagged`. */;
    readonly path?: string;
  };
  readonly cacheSalt?: string;
  readonly media?: readonly MediaItem[];
}

export interface BlockHasherOptions {
  readonly scheme: KeyScheme;
  readonly blockSizeTokens: number;
  /** Goes into `content` keys only. */
  readonly model: string;
  /** @defaultValue "tagged" */
  readonly extrasForm?: ExtrasForm;
  /** Tokens after a block that are part of its hash (0.33 with EAGLE or MTP). @defaultValue 0 */
  readonly lookaheadTokens?: number;
}

/** State at the end of a chain prefix, from which hashing goes on. Opaque to callers; immutable. */
export interface ChainState {
  /** Blocks hashed so far. */
  readonly blocks: number;
  /** Full digest (native), or the key itself; the parent of the next block. */
  readonly parent: string;
}

export interface KeyChain {
  /** One key per full block, in order. */
  readonly keys: readonly BlockKey[];
  /** State after the last key. */
  readonly end: ChainState;
}

/** Computes the block keys of prompts under one scheme. Pure; reuses one scratch buffer, so not re-entrant across threads. */
export interface BlockHasher {
  readonly blockSizeTokens: number;
  /**
   * Keys of every full block of `tokenIds` from `from.blocks` on (from 0 when absent). A prompt of n tokens has floor((n-L)/B) keys, L = lookahead.
   * `tokenIds` is always the whole prompt; media offsets are positions in it.
   *
   * Where the form is `tagged` and the path of the LoRA adapter is not known, no key can be computed and there are none.
   *
   * @throws KVATLAS_REQUEST_INVALID a token id is not in 0..2^32-1
   */
  chain(tokenIds: ArrayLike<number>, extras?: KeyExtras, from?: ChainState): KeyChain;
}

/**
 * Keys under any scheme: vLLM's own block hashes, or keys from contents. Recipes: {@link createBlockDigest}, extras: {@link extrasOfBlock}.
 *
 * @throws KVATLAS_CONFIG_INVALID block size or lookahead is not a whole number in range
 */
export function createBlockHasher(options: BlockHasherOptions): BlockHasher {
  const { scheme, blockSizeTokens, model, extrasForm = "tagged", lookaheadTokens = 0 } = options;
  if (!Number.isInteger(blockSizeTokens) || blockSizeTokens < 1) {
    throw new KvatlasError("KVATLAS_CONFIG_INVALID", `block size ${blockSizeTokens} is not a whole number of tokens from 1 on`);
  }
  if (!Number.isInteger(lookaheadTokens) || lookaheadTokens < 0) {
    throw new KvatlasError("KVATLAS_CONFIG_INVALID", `lookahead ${lookaheadTokens} is not a whole number of tokens from 0 on`);
  }
  const digest = createBlockDigest(scheme, model);
  const form = scheme.kind === "content" ? "content" : extrasForm;

  return {
    blockSizeTokens,
    chain: (tokenIds, extras, from) => {
      const keys: BlockKey[] = [];
      const blocks = Math.max(0, Math.floor((tokenIds.length - lookaheadTokens) / blockSizeTokens));
      const first = from?.blocks ?? 0;
      if (lacksKnowledge(extras, form)) return { keys, end: from ?? { blocks: 0, parent: digest.root(null) } };
      let parent = from?.parent ?? digest.root(extras?.lora?.name ?? null);
      for (let block = first; block < blocks; block++) {
        const start = block * blockSizeTokens;
        const end = start + blockSizeTokens;
        const blockExtras = extras === undefined ? null : extrasOfBlock(extras, form, start, end + lookaheadTokens);
        const lookahead = lookaheadTokens === 0 ? null : tokensAfter(tokenIds, end, lookaheadTokens);
        parent = digest.next(parent, tokenIds, start, end, blockExtras, lookahead);
        keys.push(keyOfDigest(parent));
      }
      return { keys, end: { blocks: Math.max(first, blocks), parent } };
    },
  };
}

function tokensAfter(tokenIds: ArrayLike<number>, position: number, tokens: number): number[] {
  return Array.from({ length: tokens }, (_, i) => tokenIds[position + i] ?? 0);
}
