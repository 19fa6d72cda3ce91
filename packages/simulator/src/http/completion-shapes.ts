import type { FinishReason } from "../engine/sequence.ts";
import type { CompletionCall } from "./completion-call.ts";
import type { JsonObject } from "./http-io.ts";

/** State of one choice while its answer grows. */
export interface ChoiceState {
  readonly index: number;
  readonly promptTokenIds: Uint32Array;
  /** Text of the prompt where it is echoed; else empty. */
  readonly echoed: string;
  text: string;
  tokenIds: number[];
  cachedTokens: number;
  finishReason: FinishReason | null;
  /** What is handed over to the engine that decodes; null: nothing. */
  handover: JsonObject | null;
  stopReason: string | number | null;
}

/** What all chunks of one answer share. */
export interface ResponseHead {
  readonly id: string;
  /** Unix time in seconds. */
  readonly created: number;
  readonly model: string;
}

export interface UsageOptions {
  readonly promptTokensDetails: boolean;
  /** No details when nothing was cached (up to 0.23). */
  readonly omitsZeroCachedTokens: boolean;
}

export type Usage = Readonly<Record<string, unknown>>;

/** Token counts of a request: each prompt once, every choice; `cached_tokens` are those of the last prompt, as vLLM reports them. */
export function usageOf(states: readonly ChoiceState[], choicesPerPrompt: number, options: UsageOptions, withDetails = true): Usage {
  let promptTokens = 0;
  let completionTokens = 0;
  for (const state of states) {
    if (state.index % choicesPerPrompt === 0) promptTokens += state.promptTokenIds.length;
    completionTokens += state.tokenIds.length;
  }
  const cached = states.at(-choicesPerPrompt)?.cachedTokens ?? 0;
  const hasDetails = withDetails && options.promptTokensDetails && !(cached === 0 && options.omitsZeroCachedTokens);
  return {
    prompt_tokens: promptTokens,
    total_tokens: promptTokens + completionTokens,
    completion_tokens: completionTokens,
    ...(hasDetails ? { prompt_tokens_details: { cached_tokens: cached } } : {}),
  };
}

/** The body of an answer that is not streamed. */
export function completionBody(call: CompletionCall, head: ResponseHead, states: readonly ChoiceState[], usage: Usage): unknown {
  const ids = call.returnsTokenIds;
  if (call.kind === "chat") {
    return {
      id: head.id,
      object: "chat.completion",
      created: head.created,
      model: head.model,
      choices: states.map((state) => ({
        index: state.index,
        message: { role: "assistant", content: state.text, refusal: null, tool_calls: [], reasoning: null },
        logprobs: null,
        finish_reason: state.finishReason,
        stop_reason: state.stopReason,
        ...(ids ? { token_ids: state.tokenIds } : {}),
      })),
      usage,
      prompt_logprobs: null,
      ...(ids ? { prompt_token_ids: [...(states[0]?.promptTokenIds ?? [])] } : {}),
      kv_transfer_params: states[0]?.handover ?? null,
    };
  }
  return {
    id: head.id,
    object: "text_completion",
    created: head.created,
    model: head.model,
    choices: states.map((state) => ({
      index: state.index,
      text: state.echoed + state.text,
      logprobs: null,
      finish_reason: state.finishReason,
      stop_reason: state.stopReason,
      ...(ids ? { token_ids: state.tokenIds, prompt_token_ids: [...state.promptTokenIds] } : {}),
    })),
    usage,
    kv_transfer_params: states[0]?.handover ?? null,
  };
}

/** The first chunk of each choice of a streamed chat: the role, and the prompt's ids where they are asked for. */
export function chatOpening(call: CompletionCall, head: ResponseHead, state: ChoiceState): unknown {
  return {
    id: head.id,
    object: "chat.completion.chunk",
    created: head.created,
    model: head.model,
    choices: [{ index: state.index, delta: { role: "assistant", content: "" }, logprobs: null, finish_reason: null }],
    ...(call.returnsTokenIds ? { prompt_token_ids: [...state.promptTokenIds] } : {}),
  };
}

export interface ChunkContent {
  readonly text: string;
  readonly tokenIds: readonly number[];
  readonly isFirst: boolean;
}

export function completionChunk(
  call: CompletionCall,
  head: ResponseHead,
  state: ChoiceState,
  content: ChunkContent,
  usage: Usage | null,
): unknown {
  const end = { finish_reason: state.finishReason, ...(state.finishReason === null ? {} : { stop_reason: state.stopReason }) };
  const ids = call.returnsTokenIds ? { token_ids: content.tokenIds } : {};
  const shared = { created: head.created, model: head.model };
  if (call.kind === "chat") {
    const choice = { index: state.index, delta: { content: content.text }, logprobs: null, ...end, ...ids };
    return { id: head.id, object: "chat.completion.chunk", ...shared, choices: [choice], ...(usage === null ? {} : { usage }) };
  }
  const prompt = call.returnsTokenIds ? { prompt_token_ids: content.isFirst ? [...state.promptTokenIds] : null } : {};
  const text = (content.isFirst ? state.echoed : "") + content.text;
  const choice = {
    index: state.index,
    text,
    logprobs: null,
    finish_reason: state.finishReason,
    stop_reason: state.stopReason,
    ...prompt,
    ...ids,
  };
  return { id: head.id, object: "text_completion", ...shared, choices: [choice], ...(usage === null ? {} : { usage }) };
}

/** The chunk after the last choice when `stream_options.include_usage` is set. */
export function usageChunk(call: CompletionCall, head: ResponseHead, usage: Usage): unknown {
  const object = call.kind === "chat" ? "chat.completion.chunk" : "text_completion";
  return { id: head.id, object, created: head.created, model: head.model, choices: [], usage };
}
