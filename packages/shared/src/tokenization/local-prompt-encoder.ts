import { KvatlasError } from "../errors.ts";
import { chatRequest } from "./chat-request.ts";
import { createChatRenderer } from "./chat-template.ts";
import { createTokenizer, readTokenizerFiles, type Tokenizer } from "./hf-tokenizer.ts";
import type { JsonObject, JsonValue } from "./lossless-json.ts";
import type { EncodedPrompt, LocalEncoderOptions, PromptEncoder, PromptRequest } from "./prompt-encoder.ts";
import { booleanField, cannotEncode, describe, objectField, parseBody, promptInvalid, tokenIdList } from "./request-body.ts";
import { toJsonValue } from "./to-json-value.ts";
import { truncate, truncationOf } from "./truncation.ts";

export type { Tokenizer } from "./hf-tokenizer.ts";

/** Prompts of one request; `/v1/completions` takes lists. */
const MAX_PROMPTS = 2048;

/** The synchronous heart of local encoding; it blocks its thread for as long as the prompt takes. */
export interface PromptEncoderCore {
  readonly tokenizer: Tokenizer;
  /** @throws KVATLAS_PROMPT_INVALID, KVATLAS_TOKENIZER_UNAVAILABLE */
  encode(request: PromptRequest): readonly EncodedPrompt[];
}

export interface LoadTokenizerOptions {
  /** Overrides `model_type` of config.json. */
  readonly modelType?: string;
}

/**
 * Loads tokenizer.json with the pipeline the engine runs (transformers 5.19 as vLLM 0.32 uses it).
 *
 * @throws KVATLAS_TOKENIZER_UNAVAILABLE
 */
export async function loadTokenizer(directory: string, options: LoadTokenizerOptions = {}): Promise<Tokenizer> {
  const files = await readTokenizerFiles(directory);
  return createTokenizer(files, options.modelType ?? files.modelType ?? "");
}

/** Reads a checkpoint directory and prepares tokenizer and template. @throws KVATLAS_TOKENIZER_UNAVAILABLE */
export async function loadPromptEncoderCore(options: LocalEncoderOptions): Promise<PromptEncoderCore> {
  const files = await readTokenizerFiles(options.directory);
  const modelType = options.modelType ?? files.modelType ?? "";
  const tokenizer = createTokenizer(files, modelType, options.cacheBytes);
  const renderer = createChatRenderer(files, {
    modelType,
    now: options.now ?? (() => new Date()),
    ...(options.chatTemplate === undefined ? {} : { chatTemplate: options.chatTemplate }),
  });
  const defaults = new Map(Object.entries(options.chatTemplateKwargs ?? {}).map(([name, value]) => [name, toJsonValue(value)]));

  const encodeText = (text: string, addSpecialTokens: boolean, body: JsonObject): EncodedPrompt => {
    // Python strings with lone surrogates cannot become UTF-8, so the engine fails too.
    if (/\p{Surrogate}/u.test(text)) throw promptInvalid("the prompt has a lone surrogate, which is not valid Unicode text");
    const ids = tokenizer.encode(text, { addSpecialTokens });
    const truncation = truncationOf(body);
    const { before, after } = addSpecialTokens ? tokenizer.specialTokensAdded : { before: 0, after: 0 };
    return { rendered: text, tokenIds: truncate(ids, truncation, before, after) };
  };

  const encodeIds = (ids: readonly number[], body: JsonObject): EncodedPrompt => {
    const outside = ids.find((id) => id >= tokenizer.vocabSize);
    if (outside !== undefined) throw promptInvalid(`token id ${outside} is outside the vocabulary of ${tokenizer.vocabSize}`);
    return { rendered: null, tokenIds: truncate(Uint32Array.from(ids), truncationOf(body)) };
  };

  const encodeChat = (body: JsonObject): EncodedPrompt[] => {
    const given = objectField(body, "kv_transfer_params")?.get("prompt_token_ids");
    if (given !== undefined && given !== null && body.get("echo") !== true) {
      const ids = tokenIdList(given);
      if (ids === null || ids.length === 0)
        throw promptInvalid("kv_transfer_params.prompt_token_ids must be a non-empty array of token ids");
      return [encodeIds(ids, body)];
    }
    const request = chatRequest(body, defaults);
    return [encodeText(renderer.render(request), request.addSpecialTokens, body)];
  };

  const encodeCompletion = (body: JsonObject): EncodedPrompt[] => {
    const prompt = body.get("prompt") ?? null;
    if ((body.get("prompt_embeds") ?? null) !== null) throw cannotEncode("prompt_embeds have no token ids");
    if ((body.get("suffix") ?? null) !== null) throw cannotEncode("a completion with a suffix is built by the engine");
    const addSpecialTokens = booleanField(body, "add_special_tokens", true);
    if (typeof prompt === "string") return [encodeText(prompt, addSpecialTokens, body)];
    if (!Array.isArray(prompt))
      throw promptInvalid(`prompt must be a string, an array of strings, token ids or arrays of token ids, got ${describe(prompt)}`);
    if (prompt.length === 0) throw promptInvalid("prompt must not be an empty array");
    const single = tokenIdList(prompt);
    if (single !== null) return [encodeIds(single, body)];
    if (prompt.length > MAX_PROMPTS) throw cannotEncode(`${prompt.length} prompts in one request; at most ${MAX_PROMPTS} are encoded here`);
    return prompt.map((item: JsonValue) => {
      if (typeof item === "string" && typeof prompt[0] === "string") return encodeText(item, addSpecialTokens, body);
      const ids = tokenIdList(item);
      if (ids === null || typeof prompt[0] === "string")
        throw promptInvalid(`prompt must hold only strings or only arrays of token ids, got ${describe(item)}`);
      return encodeIds(ids, body);
    });
  };

  return {
    tokenizer,
    encode: (request) => {
      const body = parseBody(request.bodyText);
      return request.kind === "chat" ? encodeChat(body) : encodeCompletion(body);
    },
  };
}

/**
 * Encodes in the calling thread; the files are read on first use. For command-line tools, the simulator and tests:
 * a router uses worker threads.
 */
export function createLocalPromptEncoder(options: LocalEncoderOptions): PromptEncoder {
  let core: Promise<PromptEncoderCore> | null = null;
  return {
    encode: async (request, callOptions) => {
      core ??= loadPromptEncoderCore(options);
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
