import { createBytePairMerges, MAX_MERGED_BYTES } from "./byte-pair-merges.ts";
import type { AddedTokenJson, TokenizerJson } from "./engine-pipeline.ts";
import { createWordSplitter, isPlain } from "./word-splitter.ts";

/** Ids of a text without added tokens; null where this is not the way to encode it. */
export type EncodeWords = (text: string) => Uint32Array | null;

/** Words remembered in each of two generations, some 100 bytes each. */
const MAX_WORDS = 65_536;
/** UTF-16 units of a word that is remembered. */
const MAX_WORD_LENGTH = 48;
/** UTF-16 units of a text: longer ones would hold the thread for long, and only an engine in other threads helps. */
const MAX_TEXT_LENGTH = 1_048_576;
/** Scratch memory that is kept, in ids. */
const KEPT_IDS = 262_144;

/**
 * Byte-level BPE by words: a text is cut into words by regular expressions, and nearly every word of a text was seen before. Some five times as
 * fast as the engines, for nearly all texts; whatever might not be exact is left to them: other characters than those of `isPlain`, long words,
 * other kinds of tokenizers. Returns null where nothing could be encoded so.
 */
export function createWordEncoder(json: TokenizerJson): EncodeWords | null {
  if (!normalizesPlainTextNot(json) || json.added_tokens.some(hidesInText)) return null;
  const split = createWordSplitter(json);
  const merges = split === null ? null : createBytePairMerges(json.model);
  if (split === null || merges === null) return null;

  let young = new Map<string, number | Uint32Array>();
  let old = new Map<string, number | Uint32Array>();
  const bytes = new Uint8Array(MAX_MERGED_BYTES);
  const ids = new Uint32Array(MAX_MERGED_BYTES);
  const utf8 = new TextEncoder();
  let scratch = new Uint32Array(4_096);

  const remember = (word: string, known: number | Uint32Array): void => {
    if (young.size >= MAX_WORDS) {
      old = young;
      young = new Map();
    }
    young.set(word, known);
  };

  /** null: too long to be merged here. */
  const encodeWord = (word: string): number | Uint32Array | null => {
    if (word.length > MAX_MERGED_BYTES) return null;
    const { read, written } = utf8.encodeInto(word, bytes);
    if (read < word.length) return null;
    const count = merges.merge(bytes, written, ids);
    const known = count === 1 ? (ids[0] ?? 0) : ids.slice(0, count);
    // A slice of a text keeps the whole text alive; a copy keeps itself.
    if (word.length <= MAX_WORD_LENGTH) remember(word.length < 13 ? word : Buffer.from(word, "utf16le").toString("utf16le"), known);
    return known;
  };

  return (text) => {
    if (text.length > MAX_TEXT_LENGTH || !isPlain(text)) return null;
    let at = 0;
    for (const word of split(text)) {
      let known = young.get(word);
      if (known === undefined) {
        const before = old.get(word);
        if (before !== undefined) remember(word, before);
        const found = before ?? encodeWord(word);
        if (found === null) return null;
        known = found;
      }
      if (at + MAX_MERGED_BYTES > scratch.length) {
        const larger = new Uint32Array(scratch.length * 2);
        larger.set(scratch);
        scratch = larger;
      }
      if (typeof known === "number") {
        scratch[at] = known;
        at += 1;
      } else {
        scratch.set(known, at);
        at += known.length;
      }
    }
    const result = scratch.slice(0, at);
    if (scratch.length > KEPT_IDS) scratch = new Uint32Array(4_096);
    return result;
  };
}

/** Tokens that the scan for pieces leaves in the text. */
function hidesInText({ lstrip, rstrip, single_word: singleWord }: AddedTokenJson): boolean {
  return lstrip === true || rstrip === true || singleWord === true;
}

/** No normaliser, or NFC, which changes nothing in plain text. */
function normalizesPlainTextNot({ normalizer, added_tokens: added }: TokenizerJson): boolean {
  if (normalizer === null) return true;
  if (normalizer.type === "Sequence" && Array.isArray(normalizer.normalizers) && normalizer.normalizers.length === 0) return true;
  // Behind a normaliser tokens that are looked for after it are found by the engine only.
  return normalizer.type === "NFC" && !added.some((token) => token.normalized ?? token.special !== true);
}

/** Plain text with what tokenizers differ in: spaces, line ends, digits, contractions, capitals, scripts, long words. */
export const wordProbe = [
  "The cache holds 1,024 blocks;  größer?   更大的呢？ if (x != 1e5) { return [\"a\", 'b']; }\n\n\tDON'T we'll I'VE it's 'S\r\n\r\n",
  "camelCaseWord XMLHttpRequest __init__(self) -> None:  # 3.14159 +49 (0)30 123456789012 2024-01-02T03:04:05Z \u00a0 x²=½ €5 «Straße» Ωμεγα Привет\n",
  "こんにちは世界 カタカナ 한국어 ＦＵＬＬ１２ 🐋🚀 → ≠ ── …“quoted”—dash don’t aaaaaaaaaaaaaaaaaaaaaaaa !!!??? ===== \n \n  \n   trailing   ",
].join("");

/** The encoder if it says of `wordProbe` what the engine says, else null: one more net below the conditions. */
export function trusted(encode: EncodeWords | null, engineIds: readonly number[]): EncodeWords | null {
  const ids = encode?.(wordProbe) ?? null;
  return ids !== null && ids.length === engineIds.length && ids.every((id, i) => id === engineIds[i]) ? encode : null;
}
