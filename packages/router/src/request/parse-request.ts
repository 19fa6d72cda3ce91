import { isUtf8 } from "node:buffer";
import { type JsonValue, LosslessJsonError, parseLosslessJson } from "@kvatlas/shared/tokenization/lossless-json";
import type { EncodedPrompt } from "@kvatlas/shared/tokenization/prompt-encoder";
import { isDivisible } from "../disaggregation/divisible.ts";
import { jsonText } from "./json-text.ts";
import { mediaOfFeatures } from "./media-features.ts";
import { messagesToChat } from "./messages-to-chat.ts";
import { HttpError } from "./openai-error.ts";
import { promptTextOf } from "./prompt-text.ts";
import { responsesToChat } from "./responses-to-chat.ts";
import { tokenIdsOf, tokenPromptsOf, truncateTokenIds } from "./token-ids.ts";

/** Token ids of one prompt, and the images and the like that some of them stand for. */
export type PromptTokens = Pick<EncodedPrompt, "tokenIds" | "media">;

/**
 * Where the tokens of a request come from: given as ids, to be had from a `PromptEncoder`, or not to be had here at all
 * (`why` becomes the decision's reason).
 */
export type PromptSource =
  | { readonly form: "ids"; readonly prompts: readonly PromptTokens[] }
  | { readonly form: "text"; readonly kind: "chat" | "completion"; readonly hasMedia?: boolean }
  /** A request of another API that engines turn into a chat: the body of that chat; null where it cannot be told exactly. */
  | { readonly form: "other-api"; readonly kind: "messages" | "responses"; readonly chatBody: () => string | null }
  | { readonly form: "none"; readonly why: "not-a-prompt" | "media" | "skips-cache" | "prompt-embeds" };

/** What routing needs to know of a request. The bytes that are forwarded are not part of it. */
export interface ParsedRequest {
  /** Model or adapter as the client named it; null when it named none. */
  readonly model: string | null;
  readonly stream: boolean;
  readonly prompt: PromptSource;
  /** Goes into the block keys of the first block (vLLM 0.9+). */
  readonly cacheSalt: string | null;
  /** Prompt and answer can be computed on different replicas, see `isDivisible`. @defaultValue false */
  readonly isDivisible?: boolean;
  /** The body as text, for encoders: number forms and key order count. */
  readonly bodyText: string;
  /** Text of the prompt, see `promptTextOf`; absent where the body is not JSON. */
  readonly promptText?: () => string;
}

type Json = Readonly<Record<string, unknown>>;

/** Paths whose body is a prompt of known form. Everything else is routed by load. */
const promptPaths: Readonly<Record<string, RequestKind>> = {
  "/v1/chat/completions": "chat",
  "/v1/completions": "completion",
  "/inference/v1/generate": "generate",
  "/v1/messages": "messages",
  "/v1/responses": "responses",
};

type RequestKind = "chat" | "completion" | "generate" | "messages" | "responses";

/** Longer bodies of other APIs are not turned into chats: that is done on the event loop, which must not stand still for it. */
const maxConvertedChars = 524_288;

/**
 * Reads a JSON request body once. Only what can be no request at all is refused; what an engine would refuse is routed by load and refused by
 * the engine, in its own words.
 *
 * @param path - without the query
 * @throws HttpError 400 not UTF-8, not JSON, or not an object
 */
export function parseRequest(path: string, body: Uint8Array): ParsedRequest {
  const { json, text } = parseObject(body);
  return describe(json, text, promptPaths[path] ?? null);
}

/**
 * The same for a dry run, where the kind is told by the fields: `token_ids`, `messages` or `prompt`.
 *
 * @throws HttpError 400 as above, or when none of the three is there
 */
export function parseDryRun(body: Uint8Array): ParsedRequest {
  const { json, text } = parseObject(body);
  if (json.token_ids !== undefined) {
    const ids = tokenPromptsOf(json.token_ids);
    if (ids === null)
      throw new HttpError(400, "token_ids must be a non-empty list of token ids (integers from 0).", { param: "token_ids" });
    return describe(json, text, "generate");
  }
  if (json.messages !== undefined) return describe(json, text, "chat");
  if (json.prompt !== undefined) return describe(json, text, "completion");
  throw new HttpError(400, "the body has no token_ids, messages or prompt: send an OpenAI request, or {model, token_ids}.");
}

function parseObject(body: Uint8Array): { readonly json: Json; readonly text: string } {
  if (!isUtf8(body)) throw new HttpError(400, "the request body is not valid UTF-8.");
  const text = Buffer.from(body.buffer, body.byteOffset, body.byteLength).toString("utf8");
  const json = parseJson(text);
  if (!isObject(json)) throw new HttpError(400, "the request body must be a JSON object.");
  return { json, text };
}

/**
 * JSON, and what engines take for JSON beyond it: Python's parser reads `NaN`, `Infinity` and `-Infinity`, so a body that has one is forwarded and left
 * to the engine's judgement. Nothing but the engine's own rules decides then whether it is a request.
 */
function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    if (/NaN|Infinity/.test(text)) {
      const value = pythonJson(text);
      if (value !== undefined) return value;
    }
    // V8 quotes the text around the error: prompts do not belong into answers and logs, the position does.
    const at = error instanceof Error ? / at position (\d+)/.exec(error.message)?.[1] : undefined;
    throw new HttpError(400, `the request body is not valid JSON${at === undefined ? "" : ` (position ${at})`}.`);
  }
}

function pythonJson(text: string): unknown {
  try {
    return plainValue(parseLosslessJson(text));
  } catch (error) {
    if (error instanceof LosslessJsonError) return undefined;
    throw error;
  }
}

/** As JSON.parse would have it. */
function plainValue(value: JsonValue): unknown {
  if (Array.isArray(value)) return value.map(plainValue);
  if (value instanceof Map) return Object.fromEntries([...value].map(([key, child]) => [key, plainValue(child)]));
  if (typeof value === "object" && value !== null) return value.value;
  return typeof value === "bigint" ? Number(value) : value;
}

function describe(json: Json, bodyText: string, kind: RequestKind | null): ParsedRequest {
  return {
    model: typeof json.model === "string" && json.model !== "" ? json.model : null,
    stream: json.stream === true,
    prompt: promptOf(json, bodyText, kind),
    cacheSalt: typeof json.cache_salt === "string" && json.cache_salt !== "" ? json.cache_salt : null,
    ...((kind === "chat" || kind === "completion") && isDivisible(kind, json) ? { isDivisible: true } : {}),
    bodyText,
    promptText: () => promptTextOf(json),
  };
}

function promptOf(json: Json, bodyText: string, kind: RequestKind | null): PromptSource {
  if (kind === null) return { form: "none", why: "not-a-prompt" };
  if (skipsCache(json)) return { form: "none", why: "skips-cache" };
  if (kind === "generate") {
    const prompts = tokenPromptsOf(json.token_ids);
    if (prompts === null) return { form: "none", why: "not-a-prompt" };
    const media = mediaOfFeatures(json.features);
    const [tokenIds] = prompts;
    if (media === null || tokenIds === undefined) return { form: "none", why: "media" };
    return { form: "ids", prompts: media.length === 0 ? prompts.map(plain) : [{ tokenIds, media }] };
  }
  if (kind === "completion") {
    if (json.prompt_embeds !== undefined && json.prompt_embeds !== null) return { form: "none", why: "prompt-embeds" };
    const prompts = tokenPromptsOf(json.prompt);
    if (prompts === null) return { form: "text", kind: "completion" };
    return {
      form: "ids",
      prompts: prompts.map((ids) => plain(truncateTokenIds(ids, json.truncate_prompt_tokens, json.truncation_side))),
    };
  }
  const withMedia = hasMediaParts(json.messages);
  // vLLM 0.27+: ids that replace template and tokenizer, also when the messages are there; 0.32+: not when those have images.
  const given = isObject(json.kv_transfer_params) && !withMedia ? tokenIdsOf(json.kv_transfer_params.prompt_token_ids) : null;
  if (given !== null) return { form: "ids", prompts: [plain(given)] };
  if (kind === "messages" || kind === "responses") return { form: "other-api", kind, chatBody: () => chatBodyOf(kind, bodyText) };
  return { form: "text", kind: "chat", ...(withMedia ? { hasMedia: true } : {}) };
}

function plain(tokenIds: Uint32Array): PromptTokens {
  return { tokenIds };
}

/** Whether tokens alone do not tell the prompt. */
export function hasMedia(source: PromptSource): boolean {
  if (source.form === "text") return source.hasMedia === true;
  return source.form === "ids" && source.prompts.some(({ media }) => media !== undefined);
}

/** Requests for which an engine does not read its prefix cache (vLLM 0.11.1+): prompt log-probabilities, also through `echo`. */
function skipsCache(json: Json): boolean {
  if (typeof json.prompt_logprobs === "number") return true;
  return json.echo === true && json.logprobs !== undefined && json.logprobs !== null && json.logprobs !== false;
}

function chatBodyOf(kind: "messages" | "responses", bodyText: string): string | null {
  if (bodyText.length > maxConvertedChars) return null;
  try {
    const body = parseLosslessJson(bodyText);
    if (!(body instanceof Map)) return null;
    const chat = kind === "messages" ? messagesToChat(body) : responsesToChat(body);
    return chat === null ? null : jsonText(chat);
  } catch (error) {
    if (error instanceof LosslessJsonError) return null;
    throw error;
  }
}

const textParts = new Set(["text", "input_text", "output_text", "refusal", "thinking"]);

/** Images and the like take placeholder tokens that only the engine's processor can count. */
function hasMediaParts(messages: unknown): boolean {
  if (!Array.isArray(messages)) return false;
  for (const message of messages) {
    if (!isObject(message) || !Array.isArray(message.content)) continue;
    for (const part of message.content) {
      if (isObject(part) && typeof part.type === "string" && !textParts.has(part.type)) return true;
    }
  }
  return false;
}

function isObject(value: unknown): value is Json {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
