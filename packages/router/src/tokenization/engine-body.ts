import { KvatlasError } from "@kvatlas/shared/errors";
import { jsonFields } from "@kvatlas/shared/tokenization/json-fields";
import type { PromptRequest } from "@kvatlas/shared/tokenization/prompt-encoder";

/** Fields that `/tokenize` reads of a chat (vLLM 0.32, TokenizeChatRequest). */
const chatFields = new Set([
  "model",
  "messages",
  "add_generation_prompt",
  "continue_final_message",
  "add_special_tokens",
  "mm_processor_kwargs",
  "media_io_kwargs",
  "tools",
]);
/** Fields of a chat that change its tokens and that `/tokenize` does not read, but takes among the template's variables. */
const variableFields = new Set(["reasoning_effort", "documents"]);
/** Fields that change tokens in a way that `/tokenize` cannot express. */
const inexpressible = new Set(["truncate_prompt_tokens", "chat_template", "suffix", "prompt_embeds"]);

/**
 * The body that asks `/tokenize` for what the engine makes of a request; values are passed on as they were written.
 *
 * @throws KVATLAS_TOKENIZER_UNAVAILABLE when `/tokenize` would count other tokens than the request has
 */
export function tokenizeBody({ kind, bodyText }: PromptRequest): string {
  const fields = new Map((jsonFields(bodyText) ?? []).map(({ name, start, end }) => [name, bodyText.slice(start, end)]));
  for (const name of inexpressible) {
    if ((fields.get(name) ?? "null") !== "null") throw cannotAsk(`a request with ${name}`);
  }
  if (kind === "completion") {
    const prompt = fields.get("prompt") ?? "";
    if (!prompt.startsWith('"')) throw cannotAsk("a list of prompts");
    return object([...fields].filter(([name]) => name === "model" || name === "prompt" || name === "add_special_tokens"));
  }
  // Known to chats under both names, to /tokenize under one.
  if (bodyText.includes('"reasoning_content"')) throw cannotAsk("a chat with reasoning_content");
  const variables = [...fields].filter(([name, value]) => variableFields.has(name) && value !== "null");
  const effort = fields.get("reasoning_effort") ?? "null";
  const given = fields.get("chat_template_kwargs") ?? "null";
  const own =
    given === "null" ? [] : (jsonFields(given) ?? []).map(({ name, start, end }): [string, string] => [name, given.slice(start, end)]);
  if (effort !== "null" && !own.some(([name]) => name === "enable_thinking")) {
    variables.push(["enable_thinking", String(effort !== '"none"')]);
  }
  const kwargs = new Map<string, string>([...own, ...variables]);
  const chat = [...fields].filter(([name]) => chatFields.has(name));
  return object(kwargs.size === 0 ? chat : [...chat, ["chat_template_kwargs", object([...kwargs])]]);
}

function object(fields: readonly (readonly [string, string])[]): string {
  return `{${fields.map(([name, value]) => `${JSON.stringify(name)}:${value}`).join(",")}}`;
}

function cannotAsk(what: string): KvatlasError {
  return new KvatlasError(
    "KVATLAS_TOKENIZER_UNAVAILABLE",
    `${what} cannot be encoded by /tokenize; engines with render endpoints (vLLM 0.15 to 0.29, later with --enable-scale-out) can`,
  );
}
