import { toUSVString } from "node:util";
import { chatRequest } from "./chat-request.ts";
import { createChatRenderer } from "./chat-template.ts";
import type { JsonObject, JsonValue } from "./lossless-json.ts";
import type { EncodedPrompt, LocalEncoderOptions, PromptRequest } from "./prompt-encoder.ts";
import { booleanField, cannotEncode, describe, objectField, parseBody, promptInvalid, tokenIdList } from "./request-body.ts";
import type { SpecialIds } from "./special-ids.ts";
import { toJsonValue } from "./to-json-value.ts";
import type { TokenizerFiles } from "./tokenizer-files.ts";
import { type Truncation, truncate, truncationOf } from "./truncation.ts";

/** Prompts of one request; `/v1/completions` takes lists. */
const MAX_PROMPTS = 2048;

/** A prompt of a request: text that is still to be encoded, or the ids the request carried. */
export type PlannedPrompt =
  | { readonly text: string; readonly addSpecialTokens: boolean; readonly truncation: Truncation | null }
  | { readonly tokenIds: Uint32Array };

/**
 * Everything of a request but the encoding of its text: body, chat template, options.
 *
 * @throws KVATLAS_PROMPT_INVALID, KVATLAS_TOKENIZER_UNAVAILABLE (when called)
 */
export type PlanPrompts = (request: PromptRequest) => readonly PlannedPrompt[];

export type PromptPlanOptions = Omit<LocalEncoderOptions, "directory" | "cacheBytes">;

/** `vocabSize`: one more than the highest id that a request may carry. */
export function createPromptPlan(files: TokenizerFiles, vocabSize: number, options: PromptPlanOptions): PlanPrompts {
  const renderer = createChatRenderer(files, {
    modelType: options.modelType ?? files.modelType ?? "",
    now: options.now ?? (() => new Date()),
    ...(options.chatTemplate === undefined ? {} : { chatTemplate: options.chatTemplate }),
  });
  const defaults = new Map(Object.entries(options.chatTemplateKwargs ?? {}).map(([name, value]) => [name, toJsonValue(value)]));

  const planText = (text: string, addSpecialTokens: boolean, body: JsonObject): PlannedPrompt => {
    // Python strings with lone surrogates cannot become UTF-8, so the engine fails too.
    if (toUSVString(text) !== text) throw promptInvalid("the prompt has a lone surrogate, which is not valid Unicode text");
    return { text, addSpecialTokens, truncation: truncationOf(body) };
  };

  const planIds = (ids: readonly number[], body: JsonObject): PlannedPrompt => {
    const outside = ids.find((id) => id >= vocabSize);
    if (outside !== undefined) throw promptInvalid(`token id ${outside} is outside the vocabulary of ${vocabSize}`);
    return { tokenIds: truncate(Uint32Array.from(ids), truncationOf(body)) };
  };

  const planChat = (body: JsonObject): PlannedPrompt[] => {
    const given = objectField(body, "kv_transfer_params")?.get("prompt_token_ids");
    if (given !== undefined && given !== null && body.get("echo") !== true) {
      const ids = tokenIdList(given);
      if (ids === null || ids.length === 0)
        throw promptInvalid("kv_transfer_params.prompt_token_ids must be a non-empty array of token ids");
      return [planIds(ids, body)];
    }
    const request = chatRequest(body, defaults);
    return [planText(renderer.render(request), request.addSpecialTokens, body)];
  };

  const planCompletion = (body: JsonObject): PlannedPrompt[] => {
    const prompt = body.get("prompt") ?? null;
    if ((body.get("prompt_embeds") ?? null) !== null) throw cannotEncode("prompt_embeds have no token ids");
    if ((body.get("suffix") ?? null) !== null) throw cannotEncode("a completion with a suffix is built by the engine");
    const addSpecialTokens = booleanField(body, "add_special_tokens", true);
    if (typeof prompt === "string") return [planText(prompt, addSpecialTokens, body)];
    if (!Array.isArray(prompt))
      throw promptInvalid(`prompt must be a string, an array of strings, token ids or arrays of token ids, got ${describe(prompt)}`);
    if (prompt.length === 0) throw promptInvalid("prompt must not be an empty array");
    const single = tokenIdList(prompt);
    if (single !== null) return [planIds(single, body)];
    if (prompt.length > MAX_PROMPTS) throw cannotEncode(`${prompt.length} prompts in one request; at most ${MAX_PROMPTS} are encoded here`);
    return prompt.map((item: JsonValue) => {
      if (typeof item === "string" && typeof prompt[0] === "string") return planText(item, addSpecialTokens, body);
      const ids = tokenIdList(item);
      if (ids === null || typeof prompt[0] === "string")
        throw promptInvalid(`prompt must hold only strings or only arrays of token ids, got ${describe(item)}`);
      return planIds(ids, body);
    });
  };

  return (request) => {
    const body = parseBody(request.bodyText);
    if (request.kind === "completion") return planCompletion(body);
    if (request.kind === "chat") return planChat(body);
    throw cannotEncode(`a body of /v1/${request.kind} is encoded by engines only`);
  };
}

/** The prompt with the ids of its text, special tokens included. */
export function finishPrompt(
  prompt: Extract<PlannedPrompt, { readonly text: string }>,
  ids: Uint32Array,
  { before, after }: SpecialIds,
): EncodedPrompt {
  const around = prompt.addSpecialTokens ? { before: before.length, after: after.length } : { before: 0, after: 0 };
  return { rendered: prompt.text, tokenIds: truncate(ids, prompt.truncation, around.before, around.after) };
}
