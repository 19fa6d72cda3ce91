import { LRUCache } from "lru-cache";
import { AddedTokenScanner, type Segment } from "./added-token-scanner.ts";
import { type AddedTokenJson, preTokenizerSteps, type TokenizerJson } from "./engine-pipeline.ts";

/** One piece may take this share of the cache at most. */
const MAX_PIECE_SHARE = 4;
/** Rough cost of an entry beside its text and ids, in bytes. */
const ENTRY_OVERHEAD_BYTES = 160;

/** A text cut into pieces, some of which are known. */
export interface SegmentedText {
  /** Texts whose ids are wanted, each once; empty when everything is remembered. */
  readonly missing: readonly string[];
  /** Ids of the whole text, given those of `missing` in their order; remembers them. */
  finish(encoded: readonly Uint32Array[]): Uint32Array;
}

/** Remembers the ids of pieces of texts, so that a growing chat pays for its new turns only. */
export type SplitText = (text: string) => SegmentedText;

/**
 * Exact, because an added token ends everything on both sides of it: what lies between is normalised, split and merged by itself.
 * Returns null where that does not hold, and for `cacheBytes` 0.
 */
export function createSegmentCache(json: TokenizerJson, cacheBytes: number): SplitText | null {
  if (cacheBytes <= 0 || (json.truncation ?? null) !== null || (json.padding ?? null) !== null) return null;
  // A token that swallows whitespace around it, or wants to stand alone, stays inside its piece, where the tokenizer sees to it.
  const separates = (token: AddedTokenJson): boolean => token.lstrip !== true && token.rstrip !== true && token.single_word !== true;
  const separators = new Set(json.added_tokens.filter(separates).map((token) => token.id));
  const raw = new AddedTokenScanner(json.added_tokens.filter((token) => !isNormalized(token)));
  const normalizedTokens = json.added_tokens.filter(isNormalized);
  // These are looked for after normalisation, so only where nothing is normalised can they be found beforehand.
  const second = normalizesNothing(json) && normalizedTokens.length > 0 ? new AddedTokenScanner(normalizedTokens) : null;
  // "first" puts a prefix before the first piece of a text, which a later piece by itself would get too: it is encoded behind its token.
  const prefixesFirstPiece = preTokenizerSteps(json.pre_tokenizer).some(
    (step) => step.type === "Metaspace" && step.prepend_scheme === "first",
  );

  const cache = new LRUCache<string, Uint32Array>({
    maxSize: cacheBytes,
    maxEntrySize: Math.max(1, Math.floor(cacheBytes / MAX_PIECE_SHARE)),
    sizeCalculation: (ids, key) => key.length * 2 + ids.byteLength + ENTRY_OVERHEAD_BYTES,
  });

  return (text) => {
    const first = mergeNonSeparators(raw.scan(text), separators);
    const segments =
      second === null
        ? first
        : first.flatMap((part) => (part.tokenId === null ? mergeNonSeparators(second.scan(part.text), separators) : [part]));
    const missing = new Map<string, { readonly index: number; readonly behindToken: boolean }>();
    /** Ids of a piece, id of a token, or the text of a piece whose ids are still to come. */
    const parts: (Uint32Array | number | string)[] = [];
    let before: Segment | null = null;
    for (const segment of segments) {
      if (segment.tokenId !== null) parts.push(segment.tokenId);
      else {
        const behindToken = prefixesFirstPiece && before !== null;
        const key = behindToken && before !== null ? before.text + segment.text : segment.text;
        const known = cache.get(key);
        if (known === undefined && !missing.has(key)) missing.set(key, { index: missing.size, behindToken });
        parts.push(known ?? key);
      }
      before = segment;
    }
    return {
      missing: [...missing.keys()],
      finish: (encoded) => {
        const found = new Map<string, Uint32Array>();
        for (const [key, { index, behindToken }] of missing) {
          const ids = encoded[index];
          if (ids === undefined) throw new RangeError(`${missing.size} pieces are missing, ids of ${encoded.length} were given`);
          const own = behindToken ? ids.slice(1) : ids;
          found.set(key, own);
          // A slice keeps the whole prompt alive; a copy keeps itself.
          cache.set(Buffer.from(key, "utf16le").toString("utf16le"), own);
        }
        return join(parts.map((part) => (typeof part === "string" ? (found.get(part) ?? new Uint32Array(0)) : part)));
      },
    };
  };
}

function isNormalized(token: AddedTokenJson): boolean {
  return token.normalized ?? token.special !== true;
}

function normalizesNothing({ normalizer }: TokenizerJson): boolean {
  if (normalizer === null) return true;
  return normalizer.type === "Sequence" && Array.isArray(normalizer.normalizers) && normalizer.normalizers.length === 0;
}

/** Joins tokens that are no separators with the text around them. */
function mergeNonSeparators(segments: readonly Segment[], separators: ReadonlySet<number>): Segment[] {
  const merged: Segment[] = [];
  for (const segment of segments) {
    if (segment.tokenId !== null && separators.has(segment.tokenId)) {
      merged.push(segment);
      continue;
    }
    const last = merged.at(-1);
    if (last !== undefined && last.tokenId === null) merged[merged.length - 1] = { text: last.text + segment.text, tokenId: null };
    else merged.push({ text: segment.text, tokenId: null });
  }
  return merged;
}

function join(parts: readonly (Uint32Array | number)[]): Uint32Array {
  const length = parts.reduce<number>((sum, part) => sum + (typeof part === "number" ? 1 : part.length), 0);
  const ids = new Uint32Array(length);
  let at = 0;
  for (const part of parts) {
    if (typeof part === "number") {
      ids[at] = part;
      at += 1;
    } else {
      ids.set(part, at);
      at += part.length;
    }
  }
  return ids;
}
