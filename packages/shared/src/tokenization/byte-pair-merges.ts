import type { PipelineStep } from "./engine-pipeline.ts";

/** Symbols of one word at most: merging compares all neighbours again and again. */
export const MAX_MERGED_BYTES = 512;

/** Merges the bytes of words as the engine's BPE model does. */
export interface BytePairMerges {
  /** Writes the ids of a word into `ids` and returns how many. The word has `MAX_MERGED_BYTES` bytes at most. */
  merge(word: Uint8Array, length: number, ids: Uint32Array): number;
}

/**
 * The merges of a byte-level BPE model in typed arrays: pair of ids -> rank and id of what they become. Always the pair of the lowest rank is
 * merged, of several the leftmost one (tokenizers 0.22, models/bpe/word.rs `merge_all`).
 *
 * Returns null for a model with anything beside: unknown tokens, prefixes and suffixes of words, bytes without a token.
 */
export function createBytePairMerges(model: PipelineStep): BytePairMerges | null {
  const { vocab, merges } = model;
  if (model.type !== "BPE" || typeof vocab !== "object" || vocab === null || Array.isArray(vocab) || !Array.isArray(merges)) return null;
  if (isSet(model.continuing_subword_prefix) || isSet(model.end_of_word_suffix)) return null;
  // Looking up in the object would make every text asked for one of the runtime's shared ones.
  const ids = new Map<string, number>();
  for (const [text, id] of Object.entries(vocab)) if (typeof id === "number") ids.set(text, id);
  const characters = byteCharacters();
  const byteIds = new Uint32Array(256);
  for (const [byte, character] of characters.entries()) {
    const id = ids.get(character);
    if (id === undefined) return null;
    byteIds[byte] = id;
  }
  const table = new PairTable(merges.length);
  for (let rank = 0; rank < merges.length; rank++) {
    const merge: unknown = merges[rank];
    let left: unknown;
    let right: unknown;
    if (typeof merge === "string") {
      const space = merge.indexOf(" ");
      left = merge.slice(0, space);
      right = merge.slice(space + 1);
    } else if (Array.isArray(merge)) [left, right] = merge as readonly unknown[];
    if (typeof left !== "string" || typeof right !== "string") return null;
    const leftId = ids.get(left);
    const rightId = ids.get(right);
    const id = ids.get(left + right);
    if (leftId === undefined || rightId === undefined || id === undefined) return null;
    table.add(leftId, rightId, rank, id);
  }

  const symbols = new Uint32Array(MAX_MERGED_BYTES);
  /** Slot of the merge of a symbol and its right neighbour; -1 where they do not merge. */
  const slots = new Int32Array(MAX_MERGED_BYTES);
  const wholeWord = (word: Uint8Array, length: number): number | null => {
    let text = "";
    for (let i = 0; i < length; i++) text += characters[word[i] ?? 0] ?? "";
    const id = ids.get(text);
    return id ?? null;
  };

  return {
    merge: (word, length, out) => {
      if (model.ignore_merges === true) {
        const id = wholeWord(word, length);
        if (id !== null) {
          out[0] = id;
          return 1;
        }
      }
      let count = length;
      for (let i = 0; i < count; i++) symbols[i] = byteIds[word[i] ?? 0] ?? 0;
      for (let i = 0; i + 1 < count; i++) slots[i] = table.find(symbols[i] ?? 0, symbols[i + 1] ?? 0);
      for (;;) {
        let best = -1;
        let bestRank = 0x7fff_ffff;
        for (let i = 0; i + 1 < count; i++) {
          const slot = slots[i] ?? -1;
          if (slot < 0) continue;
          const rank = table.rankAt(slot);
          if (rank < bestRank) {
            best = i;
            bestRank = rank;
          }
        }
        if (best < 0) break;
        symbols[best] = table.idAt(slots[best] ?? 0);
        symbols.copyWithin(best + 1, best + 2, count);
        slots.copyWithin(best + 1, best + 2, count);
        count -= 1;
        if (best > 0) slots[best - 1] = table.find(symbols[best - 1] ?? 0, symbols[best] ?? 0);
        if (best + 1 < count) slots[best] = table.find(symbols[best] ?? 0, symbols[best + 1] ?? 0);
      }
      for (let i = 0; i < count; i++) out[i] = symbols[i] ?? 0;
      return count;
    },
  };
}

/** Open addressing; of a pair that is added twice the later one counts, as in the engine's map. */
class PairTable {
  readonly #mask: number;
  readonly #left: Uint32Array;
  readonly #right: Uint32Array;
  /** Rank + 1; 0: free. */
  readonly #rank: Uint32Array;
  readonly #id: Uint32Array;

  constructor(entries: number) {
    let size = 16;
    while (size < entries * 2) size *= 2;
    this.#mask = size - 1;
    this.#left = new Uint32Array(size);
    this.#right = new Uint32Array(size);
    this.#rank = new Uint32Array(size);
    this.#id = new Uint32Array(size);
  }

  add(left: number, right: number, rank: number, id: number): void {
    const slot = this.#slot(left, right);
    this.#left[slot] = left;
    this.#right[slot] = right;
    this.#rank[slot] = rank + 1;
    this.#id[slot] = id;
  }

  /** -1: they do not merge. */
  find(left: number, right: number): number {
    const slot = this.#slot(left, right);
    return this.#rank[slot] === 0 ? -1 : slot;
  }

  rankAt(slot: number): number {
    return this.#rank[slot] ?? 0;
  }

  idAt(slot: number): number {
    return this.#id[slot] ?? 0;
  }

  #slot(left: number, right: number): number {
    let hash = Math.imul(left, 0x9e37_79b1) ^ Math.imul(right, 0x85eb_ca6b);
    hash ^= hash >>> 15;
    for (let slot = hash & this.#mask; ; slot = (slot + 1) & this.#mask) {
      if (this.#rank[slot] === 0 || (this.#left[slot] === left && this.#right[slot] === right)) return slot;
    }
  }
}

function isSet(text: unknown): boolean {
  return text !== undefined && text !== null && text !== "";
}

/** The printable character that stands for each byte in a byte-level vocabulary (GPT-2's bytes_to_unicode). */
function byteCharacters(): readonly string[] {
  let next = 0x100;
  return Array.from({ length: 256 }, (_, byte) => {
    const printable = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
    if (printable) return String.fromCharCode(byte);
    next += 1;
    return String.fromCharCode(next - 1);
  });
}
