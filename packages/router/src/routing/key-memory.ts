import type { BlockHasher, ChainState, KeyExtras } from "@kvatlas/shared/hashing/block-hasher";
import type { BlockKey } from "@kvatlas/shared/types";
import { LRUCache } from "lru-cache";

export interface KeyMemoryOptions {
  /** Tokens remembered in all; each costs about 8 bytes. @defaultValue 4_194_304 */
  readonly maxTokens?: number;
  /** Granularity, rounded up to whole blocks: a changed token costs hashing from the start of its segment. @defaultValue 256 */
  readonly segmentTokens?: number;
}

interface Segment {
  readonly id: number;
  /** Own copy, compared in full: a hash only finds the segment. */
  readonly tokens: Uint32Array;
  readonly keys: readonly BlockKey[];
  readonly end: ChainState;
}

/**
 * Remembers block keys, so that a later turn of a chat hashes only what is new. Exact: a remembered segment is used only after all of its
 * tokens have been compared, and only behind the very segment it was hashed behind. Prompts with a common beginning share segments.
 */
export class KeyMemory {
  readonly #segments: LRUCache<string, Segment>;
  readonly #segmentTokens: number;
  #nextId = 1;

  constructor(options: KeyMemoryOptions = {}) {
    this.#segments = new LRUCache({ maxSize: options.maxTokens ?? 4_194_304, sizeCalculation: (segment) => segment.tokens.length });
    this.#segmentTokens = options.segmentTokens ?? 256;
  }

  /**
   * Keys of the blocks of `tokenIds`: the same as `hasher.chain(tokenIds, extras).keys`.
   *
   * @param chainId - names everything besides tokens and media that goes into the keys (scheme, form, other extras)
   */
  keys(
    hasher: BlockHasher,
    chainId: string,
    tokenIds: Uint32Array,
    extras: KeyExtras | undefined,
    lookaheadTokens: number,
  ): readonly BlockKey[] {
    const blockTokens = hasher.blockSizeTokens;
    const segmentBlocks = Math.max(1, Math.ceil(this.#segmentTokens / blockTokens));
    const segmentTokens = segmentBlocks * blockTokens;
    // A block is hashable once the tokens it looks ahead at are there as well.
    const hashable = tokenIds.length - lookaheadTokens;
    const parts: (readonly BlockKey[])[] = [];
    let parent = chainId;
    let state: ChainState | undefined;
    let at = 0;
    while (at + segmentTokens <= hashable) {
      const end = at + segmentTokens + lookaheadTokens;
      const name = `${parent}:${hashTokens(tokenIds, at, end)}${mediaIn(extras?.media, at, end)}`;
      let segment = this.#segments.get(name);
      if (segment === undefined || !equalTokens(tokenIds, at, end, segment.tokens)) {
        const chain = hasher.chain(tokenIds.subarray(0, end), extras, state);
        segment = { id: this.#nextId++, tokens: tokenIds.slice(at, end), keys: chain.keys, end: chain.end };
        this.#segments.set(name, segment);
      }
      parts.push(segment.keys);
      state = segment.end;
      parent = String(segment.id);
      at += segmentTokens;
    }
    if (hashable - at >= blockTokens) parts.push(hasher.chain(tokenIds, extras, state).keys);
    return ([] as BlockKey[]).concat(...parts);
  }
}

/** Names the items of which there are placeholders in `[start, end)`, and where: the tokens of two images are the same. */
function mediaIn(media: KeyExtras["media"], start: number, end: number): string {
  if (media === undefined) return "";
  const within = media.filter(({ offset, length }) => offset < end && offset + length > start);
  return within.length === 0 ? "" : JSON.stringify(within.map(({ identifier, offset, length }) => [identifier, offset - start, length]));
}

/** FNV-1a over whole tokens; 32 bits. */
function hashTokens(tokens: Uint32Array, from: number, to: number): number {
  let hash = 0x811c9dc5;
  for (let i = from; i < to; i++) hash = Math.imul(hash ^ (tokens[i] ?? 0), 0x01000193);
  return hash >>> 0;
}

/** Whether `tokens[from, to)` is `known`. */
function equalTokens(tokens: Uint32Array, from: number, to: number, known: Uint32Array): boolean {
  if (known.length !== to - from) return false;
  for (let i = 0; i < known.length; i++) if (known[i] !== tokens[from + i]) return false;
  return true;
}
