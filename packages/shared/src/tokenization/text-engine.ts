import { KvatlasError } from "../errors.ts";
import type { TokenizerEngineChoice } from "./engine-choice.ts";
import { createTokenizer } from "./hf-tokenizer.ts";
import { createNativeEngine } from "./native-engine.ts";
import type { SpecialIds } from "./special-ids.ts";
import type { TokenizerFiles } from "./tokenizer-files.ts";

export type TextEngineName = Exclude<TokenizerEngineChoice, "auto">;

/** Text to token ids, as the serving engine computes them, whatever does the work. */
export interface TextEngine {
  readonly name: TextEngineName;
  /** One more than the highest id. */
  readonly vocabSize: number;
  /** Ids the post-processor puts around a text when asked for special tokens. */
  readonly special: SpecialIds;
  /** Texts may be encoded at the same time. */
  encode(text: string, options: { readonly addSpecialTokens: boolean }): Promise<Uint32Array>;
}

export interface TextEngineOptions {
  readonly choice: TokenizerEngineChoice;
  readonly modelType: string;
  /** Bytes of text and ids remembered; 0 turns it off. @defaultValue 64 MiB */
  readonly cacheBytes?: number;
}

/**
 * The wished engine. `nativeMissing` says why `auto` is not native.
 *
 * @throws KVATLAS_TOKENIZER_UNAVAILABLE when the tokenizer cannot be run exactly, or `native` is wished for and does not load.
 */
export async function createTextEngine(
  files: Pick<TokenizerFiles, "tokenizer" | "config">,
  { choice, modelType, cacheBytes }: TextEngineOptions,
): Promise<{ readonly engine: TextEngine; readonly nativeMissing: string | null }> {
  let nativeMissing: string | null = null;
  if (choice !== "javascript") {
    const native = await createNativeEngine(files, modelType, cacheBytes);
    if ("engine" in native) return { engine: native.engine, nativeMissing };
    if (choice === "native") {
      throw new KvatlasError(
        "KVATLAS_TOKENIZER_UNAVAILABLE",
        `the native tokenizer engine does not load here (${native.missing}); install the optional package "tokenizers", or set tokenizer.engine to auto or javascript.`,
      );
    }
    nativeMissing = native.missing;
  }
  const tokenizer = createTokenizer(files, modelType, cacheBytes);
  const { vocabSize, special } = tokenizer;
  return {
    engine: { name: "javascript", vocabSize, special, encode: async (text, options) => tokenizer.encode(text, options) },
    nativeMissing,
  };
}
