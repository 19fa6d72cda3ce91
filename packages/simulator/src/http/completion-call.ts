import type { EngineProfile } from "../engine-profile.ts";
import { ApiError, isObject, type JsonObject } from "./http-io.ts";

/** What a chat or text completion asks for, apart from the prompt itself. */
export interface CompletionCall {
  readonly kind: "chat" | "completion";
  /** null: the base model. */
  readonly model: string | null;
  readonly stream: boolean;
  readonly includesUsage: boolean;
  readonly continuousUsage: boolean;
  readonly returnsTokenIds: boolean;
  /** Choices per prompt. */
  readonly n: number;
  /** null: as much as fits (chat). */
  readonly maxTokens: number | null;
  readonly minTokens: number;
  readonly ignoresEndOfSequence: boolean;
  readonly stop: readonly string[];
  readonly stopTokenIds: readonly number[];
  readonly echo: boolean;
  readonly cacheSalt: string | null;
  readonly sessionId: string | null;
  readonly skipsCacheLookup: boolean;
  readonly reportsReusedBlocks: boolean;
  readonly requestId: string | null;
  /** Prompts given as ids, used as they are; null: the encoder makes them from the body. */
  readonly promptTokenIds: readonly Uint32Array[] | null;
}

const maxChoices = 128;
const maxPrompts = 2048;

/**
 * Reads the fields of a request body that an engine acts on (vLLM 0.32 `ChatCompletionRequest`, `CompletionRequest`); all others are ignored.
 *
 * @throws ApiError 400
 */
export function parseCompletionCall(kind: "chat" | "completion", body: JsonObject, profile: EngineProfile): CompletionCall {
  if (kind === "chat" && !Array.isArray(body.messages)) throw new ApiError(400, "Field required: messages must be a list.", "messages");
  if (kind === "completion" && body.prompt === undefined)
    throw new ApiError(400, "Either prompt or prompt_embeds must be provided.", "prompt");
  const stream = boolean(body, "stream");
  const streamOptions = optionalObject(body, "stream_options");
  if (streamOptions !== null && !stream)
    throw new ApiError(400, "Stream options can only be defined when `stream=True`.", "stream_options");
  const extra = optionalObject(body, "vllm_xargs") ?? {};
  const echo = boolean(body, "echo");
  const maxTokens = whole(body, "max_completion_tokens", 1) ?? whole(body, "max_tokens", kind === "completion" && echo ? 0 : 1);
  const wantsPromptLogprobs = typeof body.prompt_logprobs === "number";
  const wantsLogprobs = typeof body.logprobs === "number" || body.logprobs === true;
  return {
    kind,
    model: optionalString(body, "model"),
    stream,
    includesUsage: streamOptions?.include_usage === true,
    continuousUsage: streamOptions?.continuous_usage_stats === true,
    returnsTokenIds: boolean(body, "return_token_ids") && profile.returnsTokenIds,
    n: bounded(whole(body, "n", 1) ?? 1, maxChoices, "n"),
    maxTokens: maxTokens ?? (kind === "completion" ? 16 : null),
    minTokens: whole(body, "min_tokens", 0) ?? 0,
    ignoresEndOfSequence: boolean(body, "ignore_eos"),
    stop: stopStrings(body.stop),
    stopTokenIds: Array.isArray(body.stop_token_ids) ? body.stop_token_ids.filter((id): id is number => typeof id === "number") : [],
    echo,
    cacheSalt: cacheSalt(body, profile),
    sessionId: optionalString(body, "session_id") ?? (typeof extra.session_id === "string" ? extra.session_id : null),
    skipsCacheLookup: wantsPromptLogprobs || (kind === "completion" && echo && wantsLogprobs),
    reportsReusedBlocks: extra.kv_cache_report_mode === "full",
    requestId: optionalString(body, "request_id"),
    promptTokenIds: kind === "completion" ? idsOfPrompt(body.prompt) : idsOfTransfer(body),
  };
}

/** `/v1/completions` takes ids, or a list of them, as they are. */
function idsOfPrompt(prompt: unknown): readonly Uint32Array[] | null {
  if (!Array.isArray(prompt)) return null;
  if (prompt.length === 0) throw new ApiError(400, "Please provide at least one prompt.", "prompt");
  const lists: readonly unknown[] = typeof prompt[0] === "number" ? [prompt] : prompt;
  if (lists.length > maxPrompts)
    throw new ApiError(400, `Too many prompts: got ${lists.length}, at most ${maxPrompts} are allowed.`, "prompt");
  if (!Array.isArray(lists[0])) return null;
  return lists.map((list) => tokenIds(list, "prompt"));
}

/** Chat requests whose ids another instance has computed (0.27+). */
function idsOfTransfer(body: JsonObject): readonly Uint32Array[] | null {
  const transfer = body.kv_transfer_params;
  const ids = isObject(transfer) ? transfer.prompt_token_ids : undefined;
  return ids === undefined || ids === null ? null : [tokenIds(ids, "kv_transfer_params")];
}

function tokenIds(list: unknown, param: string): Uint32Array {
  if (!Array.isArray(list) || list.length === 0) throw new ApiError(400, `${param} must hold non-empty lists of token ids.`, param);
  const ids = new Uint32Array(list.length);
  for (let i = 0; i < list.length; i += 1) {
    const id: unknown = list[i];
    if (typeof id !== "number" || !Number.isInteger(id) || id < 0 || id > 0x7fff_ffff) {
      throw new ApiError(400, `${param} holds ${JSON.stringify(id)?.slice(0, 40)}, which is no token id.`, param);
    }
    ids[i] = id;
  }
  return ids;
}

function cacheSalt(body: JsonObject, profile: EngineProfile): string | null {
  const salt = body.cache_salt;
  if (salt === undefined || salt === null) return null;
  if (typeof salt !== "string" || salt === "")
    throw new ApiError(400, "Parameter 'cache_salt' must be a non-empty string if provided.", "cache_salt");
  // 0.30 bounds it, because it becomes part of keys of other systems.
  if (profile.hasSessionId && (salt.length > 128 || /[@/\\\0]/.test(salt))) {
    throw new ApiError(400, "Parameter 'cache_salt' must be at most 128 characters without @, /, \\ and NUL.", "cache_salt");
  }
  return salt;
}

function stopStrings(stop: unknown): readonly string[] {
  if (stop === undefined || stop === null) return [];
  if (typeof stop === "string") return [stop];
  if (Array.isArray(stop) && stop.every((one) => typeof one === "string")) return stop;
  throw new ApiError(400, "stop must be a string or a list of strings.", "stop");
}

function boolean(body: JsonObject, name: string): boolean {
  const value = body[name];
  if (value === undefined || value === null) return false;
  if (typeof value !== "boolean") throw new ApiError(400, `${name} must be true or false.`, name);
  return value;
}

function optionalString(body: JsonObject, name: string): string | null {
  const value = body[name];
  if (value === undefined || value === null) return null;
  if (typeof value !== "string") throw new ApiError(400, `${name} must be a string.`, name);
  return value;
}

function optionalObject(body: JsonObject, name: string): JsonObject | null {
  const value = body[name];
  if (value === undefined || value === null) return null;
  if (!isObject(value)) throw new ApiError(400, `${name} must be an object.`, name);
  return value;
}

function whole(body: JsonObject, name: string, min: number): number | null {
  const value = body[name];
  if (value === undefined || value === null) return null;
  if (typeof value !== "number" || !Number.isSafeInteger(value) || value < min) {
    throw new ApiError(400, `${name} must be a whole number, at least ${min}, got ${JSON.stringify(value)?.slice(0, 40)}.`, name);
  }
  return value;
}

function bounded(value: number, max: number, name: string): number {
  if (value > max) throw new ApiError(400, `${name} must be at most ${max}, got ${value}.`, name);
  return value;
}
