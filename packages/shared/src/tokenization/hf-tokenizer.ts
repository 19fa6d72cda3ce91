import { Tokenizer as HfTokenizer } from "@huggingface/tokenizers";
import { KvatlasError } from "../errors.ts";
import { enginePipeline, javascriptPipeline } from "./engine-pipeline.ts";
import { createSegmentCache } from "./segment-encoder.ts";
import { type SpecialIds, specialAround, withSpecials } from "./special-ids.ts";
import { DEFAULT_CACHE_BYTES, type TokenizerFiles } from "./tokenizer-files.ts";
import { createWordEncoder, trusted, wordProbe } from "./word-encoder.ts";

/** The engine in JavaScript: runs everywhere, blocks its thread while it encodes. */
export interface Tokenizer {
  /** Ids of a text. `addSpecialTokens` runs the post-processor (BOS, EOS where the model has them). */
  encode(text: string, options: { readonly addSpecialTokens: boolean }): Uint32Array;
  /** Text of ids, special tokens skipped. Ids outside the vocabulary are dropped. */
  decode(tokenIds: ArrayLike<number>): string;
  /** One more than the highest id. */
  readonly vocabSize: number;
  /** Ids the post-processor puts before and after a text when asked for special tokens. */
  readonly special: SpecialIds;
}

/** @throws KVATLAS_TOKENIZER_UNAVAILABLE when the pipeline has a part this build does not run exactly. */
export function createTokenizer(
  files: Pick<TokenizerFiles, "tokenizer" | "config">,
  modelType: string,
  cacheBytes: number = DEFAULT_CACHE_BYTES,
): Tokenizer {
  const json = javascriptPipeline(enginePipeline(files.tokenizer, files.config, modelType));
  let inner: HfTokenizer;
  try {
    inner = new HfTokenizer(json, files.config);
  } catch (error) {
    throw new KvatlasError("KVATLAS_TOKENIZER_UNAVAILABLE", `tokenizer.json cannot be loaded: ${String(error)}`, { cause: error });
  }
  let vocabSize = 0;
  for (const id of inner.get_vocab().values()) vocabSize = Math.max(vocabSize, id + 1);
  const encodeBare = (text: string): readonly number[] => inner.encode(text, { add_special_tokens: false }).ids;
  const special = specialAround(encodeBare("a"), inner.encode("a", { add_special_tokens: true }).ids);
  const split = createSegmentCache(json, cacheBytes);
  const words = split === null ? null : trusted(createWordEncoder(json), encodeBare(wordProbe));
  const encodePiece = (text: string): Uint32Array => words?.(text) ?? Uint32Array.from(encodeBare(text));
  const encodePieces = (text: string): Uint32Array => {
    if (split === null) return encodePiece(text);
    const segmented = split(text);
    return segmented.finish(segmented.missing.map(encodePiece));
  };
  return {
    vocabSize,
    special,
    encode: (text, { addSpecialTokens }) => {
      const ids = text === "" ? new Uint32Array(0) : encodePieces(text);
      return addSpecialTokens ? withSpecials(ids, special) : ids;
    },
    decode: (tokenIds) => {
      const known = Array.from(tokenIds).filter((id) => Number.isInteger(id) && id >= 0 && id < vocabSize);
      if (known.length === 0) return "";
      return inner.decode(known, { skip_special_tokens: true, clean_up_tokenization_spaces: false });
    },
  };
}
