import { KvatlasError } from "../errors.ts";
import type { TokenizerEngineChoice } from "./engine-choice.ts";
import { createTokenizer, type Tokenizer } from "./hf-tokenizer.ts";
import type { EncodedPrompt, LocalEncoderOptions, PromptEncoder, PromptRequest } from "./prompt-encoder.ts";
import { createPromptPlan, finishPrompt } from "./prompt-plan.ts";
import { createTextEngine, type TextEngineName } from "./text-engine.ts";
import { readTokenizerFiles } from "./tokenizer-files.ts";

export type { Tokenizer } from "./hf-tokenizer.ts";

/** Synchronous local encoding, in JavaScript; it blocks its thread for as long as the prompt takes. */
export interface PromptEncoderCore {
  readonly tokenizer: Tokenizer;
  /** @throws KVATLAS_PROMPT_INVALID, KVATLAS_TOKENIZER_UNAVAILABLE */
  encode(request: PromptRequest): readonly EncodedPrompt[];
}

/** Reads a checkpoint directory and prepares tokenizer and template. @throws KVATLAS_TOKENIZER_UNAVAILABLE */
export async function loadPromptEncoderCore(options: LocalEncoderOptions): Promise<PromptEncoderCore> {
  const files = await readTokenizerFiles(options.directory);
  const tokenizer = createTokenizer(files, options.modelType ?? files.modelType ?? "", options.cacheBytes);
  const plan = createPromptPlan(files, tokenizer.vocabSize, options);
  return {
    tokenizer,
    encode: (request) =>
      plan(request).map((prompt) =>
        "tokenIds" in prompt
          ? { rendered: null, tokenIds: prompt.tokenIds }
          : finishPrompt(prompt, tokenizer.encode(prompt.text, prompt), tokenizer.special),
      ),
  };
}

export interface EngineEncoderOptions extends LocalEncoderOptions {
  /** @defaultValue auto */
  readonly engine?: TokenizerEngineChoice;
}

/** Local encoding with either engine. */
export interface EngineEncoder {
  readonly engine: TextEngineName;
  /** Why the native engine is not used although it was wished for; null otherwise. */
  readonly nativeMissing: string | null;
  /** @throws KVATLAS_PROMPT_INVALID, KVATLAS_TOKENIZER_UNAVAILABLE */
  encode(request: PromptRequest): Promise<readonly EncodedPrompt[]>;
}

/** Reads a checkpoint directory and prepares the engine and the template. @throws KVATLAS_TOKENIZER_UNAVAILABLE */
export async function loadEngineEncoder(options: EngineEncoderOptions): Promise<EngineEncoder> {
  const files = await readTokenizerFiles(options.directory);
  const { engine, nativeMissing } = await createTextEngine(files, {
    choice: options.engine ?? "auto",
    modelType: options.modelType ?? files.modelType ?? "",
    ...(options.cacheBytes === undefined ? {} : { cacheBytes: options.cacheBytes }),
  });
  const plan = createPromptPlan(files, engine.vocabSize, options);
  return {
    engine: engine.name,
    nativeMissing,
    encode: async (request) =>
      Promise.all(
        plan(request).map(async (prompt) =>
          "tokenIds" in prompt
            ? { rendered: null, tokenIds: prompt.tokenIds }
            : finishPrompt(prompt, await engine.encode(prompt.text, prompt), engine.special),
        ),
      ),
  };
}

/**
 * Encodes in the calling thread; the files are read on first use. For command-line tools, the simulator and tests:
 * a router uses worker threads.
 */
export function createLocalPromptEncoder(options: EngineEncoderOptions): PromptEncoder {
  let core: Promise<EngineEncoder> | null = null;
  return {
    encode: async (request, callOptions) => {
      core ??= loadEngineEncoder(options);
      const loaded = await core;
      if (callOptions?.signal?.aborted === true)
        throw new KvatlasError("KVATLAS_DEADLINE_EXCEEDED", "tokenization was cancelled before it began");
      return loaded.encode(request);
    },
    close: async () => {
      core = null;
    },
  };
}
