import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { KvatlasError } from "../errors.ts";
import type { TokenizerConfig, TokenizerJson } from "./engine-pipeline.ts";

export interface TokenizerFiles {
  readonly tokenizer: TokenizerJson;
  readonly config: TokenizerConfig;
  /** `model_type` of config.json; null when the directory has none. */
  readonly modelType: string | null;
  /** Text of chat_template.jinja; null when the directory has none. */
  readonly chatTemplateFile: string | null;
}

/** Text and ids of remembered pieces. */
export const DEFAULT_CACHE_BYTES = 64 * 1024 * 1024;

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

/**
 * What a directory leaves open although everything can be read; null for nothing. Classes named LlamaTokenizer are rebuilt by the engine for some
 * model types and run as published for others, and only config.json names the type.
 */
export async function ambiguityOf(directory: string): Promise<string | null> {
  const [config, modelConfig] = await Promise.all([
    readJson(directory, "tokenizer_config.json", true),
    readJson(directory, "config.json", false),
  ]);
  const name = config?.tokenizer_class;
  if (typeof modelConfig?.model_type === "string" || typeof name !== "string" || !/^LlamaTokenizer(?:Fast)?$/.test(name)) return null;
  return `tokenizer_class is ${name} and no config.json names the model_type, so Llama's own rules are taken; DeepSeek, Phi 3 and others that use the class have different ones. Put the checkpoint's config.json into ${directory}.`;
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
