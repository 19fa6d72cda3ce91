import { describe, expect, it } from "vitest";
import type { TokenizerJson } from "./engine-pipeline.ts";
import { createWordEncoder } from "./word-encoder.ts";
import { createWordSplitter, isPlain } from "./word-splitter.ts";

/** Bytes that stand for themselves, and the merges given, in this order. */
function tokenizer(merges: readonly string[], changes: Partial<TokenizerJson> = {}): TokenizerJson {
  const vocab: Record<string, number> = {};
  let next = 0x100;
  for (let byte = 0; byte < 256; byte++) {
    const printable = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte !== 0xad);
    vocab[String.fromCharCode(printable ? byte : next++)] = byte;
  }
  for (const [i, merge] of merges.entries()) vocab[merge.replace(" ", "")] ??= 256 + i;
  return {
    added_tokens: [],
    normalizer: { type: "NFC" },
    pre_tokenizer: { type: "ByteLevel", add_prefix_space: false },
    post_processor: null,
    decoder: null,
    model: { type: "BPE", vocab, merges },
    ...changes,
  };
}

const ids = (json: TokenizerJson, text: string): readonly number[] | null => {
  const encoded = createWordEncoder(json)?.(text) ?? null;
  return encoded === null ? null : [...encoded];
};

describe("words of byte-level tokenizers", () => {
  it("merges the lowest rank first, and of several the leftmost", () => {
    const json = tokenizer(["b c", "a b", "a a", "aa aa"]);
    expect(ids(json, "abc")).toEqual([97, 256]);
    expect(ids(json, "ab")).toEqual([257]);
    expect(ids(json, "aaaaa")).toEqual([259, 97]);
  });

  it("merges nothing across words", () => {
    expect(ids(tokenizer(["b Ġ", "Ġ c"]), "b c")).toEqual([98, 257]);
  });

  it("takes a word of the vocabulary whole where merges are to be ignored", () => {
    const json = tokenizer(["a b", "b c", "a bc"]);
    expect(ids(json, "abc")).toEqual([256, 99]);
    expect(ids({ ...json, model: { ...json.model, ignore_merges: true } }, "abc")).toEqual([258]);
  });

  it("says the same of a word seen before", () => {
    const encode = createWordEncoder(tokenizer(["a b"]));
    const [first, again] = [encode?.("ab größe ab"), encode?.("ab größe ab")];
    expect(again).toEqual(first);
    expect(first).not.toBeNull();
  });

  it("leaves to the engine what it may not know: combining marks, separators of lines, long words", () => {
    for (const text of ["e\u0301", "a\u0085b", "\ufeffa", "\u017f", "हिन्दी", "a".repeat(600), "\ud800"])
      expect(ids(tokenizer([]), text)).toBeNull();
  });

  it("is not there for tokenizers of another kind", () => {
    const token = { id: 300, content: "<x>", special: true, normalized: false };
    expect(createWordEncoder(tokenizer([], { added_tokens: [token] }))).not.toBeNull();
    for (const changes of [
      { added_tokens: [{ ...token, lstrip: true }] },
      { added_tokens: [{ ...token, normalized: true }] },
      { normalizer: { type: "Lowercase" } },
      { pre_tokenizer: { type: "Metaspace" } },
      { pre_tokenizer: null },
      { pre_tokenizer: { type: "ByteLevel", add_prefix_space: true } },
      { model: { type: "Unigram", vocab: [] } },
    ] satisfies Partial<TokenizerJson>[]) {
      expect(createWordEncoder(tokenizer([], changes)), JSON.stringify(changes)).toBeNull();
    }
  });
});

describe("patterns of pre-tokenizers", () => {
  const splitter = (regex: string) =>
    createWordSplitter({
      pre_tokenizer: {
        type: "Sequence",
        pretokenizers: [
          { type: "Split", pattern: { Regex: regex }, behavior: "Isolated", invert: false },
          { type: "ByteLevel", use_regex: false },
        ],
      },
    });

  it("keep what lies between matches", () => {
    expect(splitter("\\p{N}{1,3}")?.("ab1234cd")).toEqual(["ab", "123", "4", "cd"]);
    expect(splitter("(?i:'s|'t|'re|'ve|'m|'ll|'d)|\\p{L}+")?.("I'LL go")).toEqual(["I", "'LL", " ", "go"]);
  });

  it.each(["a++", "(?>a)", "(?i:a)", "\\d+", "\\w", "[a&&b]", "[a[bc]]", "^a", "a$", ".", "(?<=a)b", "\\h", "\\p{Foo}"])(
    "%s is not run here",
    (regex) => {
      expect(splitter(regex)).toBeNull();
    },
  );
});

it("plain text is what normalisation leaves alone", () => {
  for (let point = 1; point < 0x1_f700; point++) {
    const text = String.fromCodePoint(point);
    if (isPlain(text) && text.normalize("NFC") !== text) expect.unreachable(`U+${point.toString(16)}`);
  }
  expect(isPlain("The größer 更大 🐋")).toBe(true);
});
