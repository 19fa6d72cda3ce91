import type { JsonArray, JsonObject, JsonValue } from "@kvatlas/shared/tokenization/lossless-json";

/** Fields that have no part in the prompt. Others (tools, reasoning, an earlier response, truncation) are the engine's to judge. */
const knownFields = new Set([
  "model",
  "input",
  "instructions",
  "max_output_tokens",
  "metadata",
  "store",
  "stream",
  "temperature",
  "top_k",
  "top_p",
  "user",
]);

/**
 * The chat that an engine makes of a request to `/v1/responses` (vLLM 0.16 and on, which adds special tokens to the rendered text, other than for chats);
 * null for anything but texts of users, systems and assistants.
 */
export function responsesToChat(body: JsonObject): JsonObject | null {
  for (const [name, value] of body) if (!knownFields.has(name) && value !== null) return null;
  const messages: JsonArray = [];
  const instructions = body.get("instructions") ?? null;
  if (instructions !== null) {
    if (typeof instructions !== "string" || instructions === "") return null;
    messages.push(message("system", instructions));
  }
  const input = body.get("input");
  if (typeof input === "string") messages.push(message("user", input));
  else if (Array.isArray(input) && input.length > 0) {
    for (const item of input) {
      const chat = chatMessage(item);
      if (chat === null) return null;
      messages.push(chat);
    }
  } else return null;
  return new Map<string, JsonValue>([
    ["messages", messages],
    ["add_special_tokens", true],
  ]);
}

/** Messages with a plain text: how items of other kinds are merged depends on those around them. */
function chatMessage(item: JsonValue): JsonObject | null {
  if (!(item instanceof Map) || (item.get("type") ?? "message") !== "message") return null;
  const role = item.get("role");
  const content = item.get("content");
  if ((role !== "user" && role !== "system" && role !== "assistant") || typeof content !== "string") return null;
  const status = item.get("status") ?? null;
  return status === null || status === "completed" ? message(role, content) : null;
}

function message(role: string, content: string): JsonObject {
  return new Map<string, JsonValue>([
    ["role", role],
    ["content", content],
  ]);
}
