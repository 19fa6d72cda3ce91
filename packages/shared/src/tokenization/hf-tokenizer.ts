import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { Tokenizer as HfTokenizer } from "@huggingface/tokenizers";
import { KvatlasError } from "../errors.ts";
import { enginePipeline, type TokenizerConfig, type TokenizerJson } from "./engine-pipeline.ts";
import { createSegmentEncoder } from "./segment-encoder.ts";

export interface Tokenizer {
  /** Ids of a text. `addSpecialTokens` runs the post-processor (BOS, EOS where the model has them). */
  encode(text: string, options: { readonly addSpecialTokens: boolean }): Uint32Array;
  /** Text of ids, special tokens skipped. Ids outside the vocabulary are dropped. */
  decode(tokenIds: ArrayLike<number>): string;
  /** One more than the highest id. */
  readonly vocabSize: number;
  /** Ids the post-processor puts before and after a text when asked for special tokens. */
  readonly specialTokensAdded: { readonly before: number; readonly after: number };
}

export interface TokenizerFiles {
  readonly tokenizer: TokenizerJson;
  readonly config: TokenizerConfig;
  /** `model_type` of config.json; null when the directory has none. */
  readonly modelType: string | null;
  /** Text of chat_template.jinja; null when the directory has none. */
  readonly chatTemplateFile: string | null;
}

/**
 * Reads what a checkpoint directory says about tokenization.
 *
 * @throws KVATLAS_TOKENIZER_UNAVAILABLE naming the file that is missing or broken.
 */
export async function readTokenizerFiles(directory: string): Promise<TokenizerFiles> {
  const [tokenizer, config, modelConfig, chatTemplateFile] = await Promise.all([
    readJson(directory, "tokenizer.json", true),
    readJson(directory, "tokenizer_config.json", true),
    readJson(directory, "config.json", false),
    readText(directory, "chat_template.jinja", false),
  ]);
  const modelType = modelConfig?.model_type;
  return {
    tokenizer: tokenizer as unknown as TokenizerJson,
    config: config as unknown as TokenizerConfig,
    modelType: typeof modelType === "string" ? modelType : null,
    chatTemplateFile,
  };
}

/** Text and ids of remembered pieces. */
const DEFAULT_CACHE_BYTES = 64 * 1024 * 1024;

/** @throws KVATLAS_TOKENIZER_UNAVAILABLE when the pipeline has a part this build does not run exactly. */
export function createTokenizer(
  files: Pick<TokenizerFiles, "tokenizer" | "config">,
  modelType: string,
  cacheBytes: number = DEFAULT_CACHE_BYTES,
): Tokenizer {
  const json = enginePipeline(files.tokenizer, files.config, modelType);
  let inner: HfTokenizer;
  try {
    inner = new HfTokenizer(json, files.config);
  } catch (error) {
    throw new KvatlasError("KVATLAS_TOKENIZER_UNAVAILABLE", `tokenizer.json cannot be loaded: ${String(error)}`, { cause: error });
  }
  let vocabSize = 0;
  for (const id of inner.get_vocab().values()) vocabSize = Math.max(vocabSize, id + 1);
  const special = specialIds(inner);
  const encodePiece = (text: string): Uint32Array => Uint32Array.from(inner.encode(text, { add_special_tokens: false }).ids);
  const encodePieces = createSegmentEncoder(json, encodePiece, cacheBytes) ?? encodePiece;
  return {
    vocabSize,
    specialTokensAdded: { before: special.before.length, after: special.after.length },
    encode: (text, { addSpecialTokens }) => {
      const ids = text === "" ? new Uint32Array(0) : encodePieces(text);
      return addSpecialTokens ? Uint32Array.from([...special.before, ...ids, ...special.after]) : ids;
    },
    decode: (tokenIds) => {
      const known = Array.from(tokenIds).filter((id) => Number.isInteger(id) && id >= 0 && id < vocabSize);
      if (known.length === 0) return "";
      return inner.decode(known, { skip_special_tokens: true, clean_up_tokenization_spaces: false });
    },
  };
}

/** Ids the post-processor puts around a text, from comparing one text with and without special tokens. */
function specialIds(inner: HfTokenizer): { readonly before: readonly number[]; readonly after: readonly number[] } {
  const bare: readonly number[] = inner.encode("a", { add_special_tokens: false }).ids;
  const full: readonly number[] = inner.encode("a", { add_special_tokens: true }).ids;
  const added = full.length - bare.length;
  for (let before = 0; before <= added; before++) {
    if (bare.every((id, i) => full[before + i] === id)) return { before: full.slice(0, before), after: full.slice(before + bare.length) };
  }
  throw new KvatlasError("KVATLAS_TOKENIZER_UNAVAILABLE", "the post-processor of tokenizer.json does more than put tokens around the text");
}

async function readText(directory: string, name: string, required: boolean): Promise<string | null> {
  try {
    return await readFile(join(directory, name), "utf8");
  } catch (error) {
    const missing = error instanceof Error && "code" in error && error.code === "ENOENT";
    if (missing && !required) return null;
    const problem = missing ? "is missing" : `cannot be read: ${String(error)}`;
    throw new KvatlasError(
      "KVATLAS_TOKENIZER_UNAVAILABLE",
      `${name} ${problem} in ${directory}; a tokenizer directory needs tokenizer.json and tokenizer_config.json`,
      { cause: error },
    );
  }
}

async function readJson(directory: string, name: string, required: boolean): Promise<Record<string, unknown> | null> {
  const text = await readText(directory, name, required);
  if (text === null) return null;
  try {
    const value: unknown = JSON.parse(text);
    if (typeof value === "object" && value !== null && !Array.isArray(value)) return value as Record<string, unknown>;
  } catch (error) {
    throw new KvatlasError("KVATLAS_TOKENIZER_UNAVAILABLE", `${name} in ${directory} is not JSON: ${String(error)}`, { cause: error });
  }
  throw new KvatlasError("KVATLAS_TOKENIZER_UNAVAILABLE", `${name} in ${directory} is not a JSON object`);
}
