import type { BlockKey } from "../types.ts";
import type { ExtrasForm, KeyScheme } from "./key-scheme.ts";

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
   */
  chain(tokenIds: ArrayLike<number>, extras?: KeyExtras, from?: ChainState): KeyChain;
}
