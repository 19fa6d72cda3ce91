import type { JsonArray, JsonObject, JsonValue } from "@kvatlas/shared/tokenization/lossless-json";
import { jsonText } from "./json-text.ts";

/** Fields that have no part in the prompt, or none that depends on anything but themselves. Others are not known to be harmless. */
const knownFields = new Set([
  "model",
  "messages",
  "system",
  "tools",
  "tool_choice",
  "max_tokens",
  "metadata",
  "stop_sequences",
  "stream",
  "temperature",
  "top_k",
  "top_p",
]);

const billingHeader = "x-anthropic-billing-header";

/**
 * The chat that an engine makes of a request to `/v1/messages` (vLLM 0.24 and on, `entrypoints/anthropic/serving.py`); null where releases differ,
 * where the template decides, or where there is something other than text, tools and their results.
 */
export function messagesToChat(body: JsonObject): JsonObject | null {
  for (const [name, value] of body) if (!knownFields.has(name) && value !== null) return null;
  const source = body.get("messages");
  if (!Array.isArray(source)) return null;
  const messages: JsonArray = [];
  const system = body.get("system") ?? null;
  if (system !== null) {
    const text = systemText(system);
    if (text === null) return null;
    messages.push(object(["role", "system"], ["content", text]));
  }
  for (const message of source) {
    const chat = chatMessages(message);
    if (chat === null) return null;
    messages.push(...chat);
  }
  const result = object(["messages", messages]);
  const tools = toolsOf(body.get("tools") ?? null);
  if (tools === null) return null;
  if (tools.length === 0) return (body.get("tool_choice") ?? null) === null ? result : null;
  const choice = toolChoiceOf(body.get("tool_choice") ?? null);
  if (choice === null) return null;
  return result.set("tools", tools).set("tool_choice", choice);
}

function systemText(system: JsonValue): string | null {
  if (typeof system === "string") return system.startsWith(billingHeader) ? null : system;
  if (!Array.isArray(system)) return null;
  let text = "";
  for (const block of system) {
    const part = textOf(block);
    if (part === null) return null;
    if (!part.startsWith(billingHeader)) text += part;
  }
  return text === "" ? null : text;
}

/** One message may become several: results of tools are messages of their own, before the rest. */
function chatMessages(message: JsonValue): JsonObject[] | null {
  if (!(message instanceof Map)) return null;
  const role = message.get("role");
  const content = message.get("content");
  // Where system messages go depends on the template.
  if (role !== "user" && role !== "assistant") return null;
  if (typeof content === "string") return [object(["role", role], ["content", content])];
  if (!Array.isArray(content) || content.length === 0) return null;
  return role === "user" ? userMessages(content) : assistantMessage(content);
}

function userMessages(content: JsonArray): JsonObject[] | null {
  const results: JsonObject[] = [];
  const texts: string[] = [];
  for (const block of content) {
    const text = textOf(block);
    if (text !== null) {
      texts.push(text);
      continue;
    }
    const result = toolResult(block);
    if (result === null) return null;
    results.push(result);
  }
  return texts.length === 0 ? results : [...results, object(["role", "user"], ["content", contentOf(texts)])];
}

function assistantMessage(content: JsonArray): JsonObject[] | null {
  const texts: string[] = [];
  const calls: JsonArray = [];
  for (const block of content) {
    const text = textOf(block);
    if (text !== null) {
      texts.push(text);
      continue;
    }
    const call = toolCall(block);
    if (call === null) return null;
    calls.push(call);
  }
  const message = object(["role", "assistant"]);
  if (texts.length > 0) message.set("content", contentOf(texts));
  if (calls.length > 0) message.set("tool_calls", calls);
  return [message];
}

/** A single text is a string, several are parts. */
function contentOf(texts: readonly string[]): JsonValue {
  const [only] = texts;
  return texts.length === 1 && only !== undefined ? only : texts.map((text) => object(["type", "text"], ["text", text]));
}

function toolCall(block: JsonValue): JsonObject | null {
  if (!(block instanceof Map) || block.get("type") !== "tool_use") return null;
  const [id, name, input] = [block.get("id"), block.get("name"), block.get("input")];
  if (typeof id !== "string" || typeof name !== "string" || !(input instanceof Map)) return null;
  return object(["id", id], ["type", "function"], ["function", object(["name", name], ["arguments", jsonText(input)])]);
}

function toolResult(block: JsonValue): JsonObject | null {
  if (!(block instanceof Map) || block.get("type") !== "tool_result") return null;
  const id = block.get("tool_use_id");
  const content = block.get("content");
  if (typeof id !== "string") return null;
  if (typeof content === "string") return object(["role", "tool"], ["tool_call_id", id], ["content", content]);
  if (!Array.isArray(content) || content.length === 0) return null;
  const texts = content.map(textOf);
  if (texts.includes(null)) return null;
  return object(["role", "tool"], ["tool_call_id", id], ["content", texts.join("\n")]);
}

/** Empty when there are none; null when they are no plain functions, or leave to the engine what it fills in. */
function toolsOf(tools: JsonValue): JsonArray | null {
  if (tools === null) return [];
  if (!Array.isArray(tools) || tools.length === 0) return null;
  const functions: JsonArray = [];
  for (const tool of tools) {
    if (!(tool instanceof Map)) return null;
    const [type, name, schema] = [tool.get("type") ?? "custom", tool.get("name"), tool.get("input_schema")];
    if (type !== "custom" || typeof name !== "string" || !(schema instanceof Map) || !schema.has("type")) return null;
    const description = tool.get("description") ?? null;
    functions.push(
      object(["type", "function"], ["function", object(["name", name], ["description", description], ["parameters", schema])]),
    );
  }
  return functions;
}

function toolChoiceOf(choice: JsonValue): JsonValue {
  if (choice === null) return "auto";
  if (!(choice instanceof Map)) return null;
  const type = choice.get("type");
  if (type === "auto" || type === "none") return type;
  if (type === "any") return "required";
  const name = choice.get("name");
  return type === "tool" && typeof name === "string" ? object(["type", "function"], ["function", object(["name", name])]) : null;
}

function textOf(block: JsonValue): string | null {
  if (!(block instanceof Map) || block.get("type") !== "text") return null;
  const text = block.get("text");
  return typeof text === "string" && text !== "" ? text : null;
}

function object(...entries: readonly (readonly [string, JsonValue])[]): JsonObject {
  return new Map(entries);
}
