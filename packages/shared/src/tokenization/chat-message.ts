import type { ContentFormat } from "./jinja/content-format.ts";
import { type JsonArray, type JsonObject, type JsonValue, LosslessJsonError, parseLosslessJson } from "./lossless-json.ts";
import { arrayField, cannotEncode, describe, promptInvalid } from "./request-body.ts";

/** Part types the engine reads as text, and the field that holds it (vLLM 0.32, renderers/chat_utils). */
const TEXT_FIELDS: ReadonlyMap<string, string> = new Map([
  ["text", "text"],
  ["input_text", "text"],
  ["output_text", "text"],
  ["refusal", "refusal"],
  ["thinking", "thinking"],
]);

const MEDIA = new Set([
  "image_url",
  "input_image",
  "image_pil",
  "image_embeds",
  "input_audio",
  "audio_url",
  "audio_embeds",
  "video_url",
  "video_embeds",
  "prompt_embeds",
  "tool_reference",
  "file",
]);

/** Fields of a part that belong to its type; all others stay on the part in the openai format. */
const KNOWN_PART_FIELDS = new Set([...MEDIA, "type", "text", "refusal", "thinking", "closed", "uuid", "name", "data"]);

const BILLING_HEADER = "x-anthropic-billing-header";

/**
 * One message as the template gets it: role, content, and what the engine keeps beside them. Null content becomes an empty one.
 *
 * @throws KVATLAS_PROMPT_INVALID for what the engine refuses.
 * @throws KVATLAS_TOKENIZER_UNAVAILABLE for images, audio, video, files and tool references.
 */
export function chatMessage(message: JsonValue, format: ContentFormat): JsonObject {
  if (!(message instanceof Map)) throw promptInvalid(`every message must be an object, got ${describe(message)}`);
  const role = message.get("role");
  if (typeof role !== "string") throw promptInvalid(`every message needs a role, got ${describe(role)}`);
  let parts = contentParts(message.get("content") ?? null);
  if (role === "system") parts = withoutBillingHeader(parts);
  const content = format === "openai" ? openaiContent(parts) : stringContent(parts);
  const result: JsonObject = new Map<string, JsonValue>([
    ["role", role],
    ["content", content],
  ]);

  if (role === "assistant") {
    const calls = arrayField(message, "tool_calls");
    if (calls !== null && calls.length > 0) result.set("tool_calls", calls.map(toolCall));
    // The deprecated name counts only where the current one is missing; templates see both.
    const reasoning = message.get("reasoning") ?? message.get("reasoning_content") ?? null;
    if (reasoning !== null) {
      if (typeof reasoning !== "string") throw promptInvalid(`reasoning must be a string, got ${describe(reasoning)}`);
      result.set("reasoning", reasoning);
      result.set("reasoning_content", reasoning);
    }
  } else if (role === "tool") {
    const id = message.get("tool_call_id");
    if (id !== undefined) result.set("tool_call_id", id);
    if (Array.isArray(content))
      result.set("content", content.map((part) => (part instanceof Map ? String(part.get("text") ?? "") : "")).join("\n"));
  }
  for (const name of ["name", "task"]) {
    const value = message.get(name);
    if (typeof value === "string") result.set(name, value);
  }
  if (role === "developer") result.set("tools", message.get("tools") ?? null);
  return result;
}

interface TextPart {
  readonly type: string;
  readonly text: string;
  /** Fields that are not of the part's type. */
  readonly extra: readonly (readonly [string, JsonValue])[];
}

function contentParts(content: JsonValue): TextPart[] {
  if (content === null) return [];
  if (typeof content === "string") return [{ type: "text", text: content, extra: [] }];
  if (!Array.isArray(content)) throw promptInvalid(`content must be a string, an array of parts or null, got ${describe(content)}`);
  return content.map(textPart).filter((part) => part !== null);
}

function textPart(part: JsonValue): TextPart | null {
  if (typeof part === "string") return { type: "text", text: part, extra: [] };
  if (!(part instanceof Map)) throw promptInvalid(`every content part must be an object or a string, got ${describe(part)}`);
  const type = part.get("type") ?? null;
  const field = typeof type === "string" ? TEXT_FIELDS.get(type) : undefined;
  if (typeof type !== "string" || field === undefined) {
    if ((typeof type === "string" && MEDIA.has(type)) || (type === null && [...MEDIA].some((key) => part.has(key)))) {
      throw cannotEncode(`content part ${describe(type)} is not text; prompts with media are encoded by the engine only`);
    }
    throw promptInvalid(`unsupported chat content part type ${describe(type)}; text parts are ${[...TEXT_FIELDS.keys()].join(", ")}`);
  }
  const text = part.get(field) ?? null;
  if (text === null && (type === "text" || type === "refusal")) return null;
  if (typeof text !== "string") throw promptInvalid(`${field} of a content part must be a string, got ${describe(text)}`);
  return { type, text, extra: [...part].filter(([key]) => !KNOWN_PART_FIELDS.has(key)) };
}

/** A header whose value changes with every request is cut from system texts; a part that held nothing else goes. */
function withoutBillingHeader(parts: readonly TextPart[]): TextPart[] {
  return parts.flatMap((part) => {
    if (part.type !== "text" || !part.text.startsWith(BILLING_HEADER)) return [part];
    const newline = part.text.indexOf("\n");
    const rest = newline < 0 ? "" : part.text.slice(newline + 1);
    return rest === "" ? [] : [{ ...part, text: rest }];
  });
}

function stringContent(parts: readonly TextPart[]): string {
  return parts
    .map((part) => part.text)
    .filter((text) => text !== "")
    .join("\n");
}

function openaiContent(parts: readonly TextPart[]): JsonArray {
  return parts.map(
    (part): JsonObject =>
      new Map<string, JsonValue>([
        ["type", "text"],
        ["text", part.text],
        ...part.extra.map(([key, value]): [string, JsonValue] => [key, value]),
      ]),
  );
}

/** The engine's models print declared fields in declared order, then the rest: id, function {arguments, name}, type. */
function toolCall(call: JsonValue): JsonObject {
  if (!(call instanceof Map)) throw promptInvalid(`every tool call must be an object, got ${describe(call)}`);
  const fn = call.get("function");
  if (call.get("type") !== "function" || !(fn instanceof Map)) {
    throw promptInvalid(`tool calls of an assistant message must have type "function", got ${describe(call.get("type"))}`);
  }
  const id = call.get("id");
  const name = fn.get("name");
  const args = fn.get("arguments");
  if (typeof id !== "string") throw promptInvalid(`a tool call needs a string id, got ${describe(id)}`);
  if (typeof name !== "string") throw promptInvalid(`a tool call needs a function name, got ${describe(name)}`);
  if (typeof args !== "string") throw promptInvalid(`arguments of a tool call must be a string with JSON, got ${describe(args)}`);
  const ordered: JsonObject = new Map<string, JsonValue>([
    ["arguments", parseArguments(args)],
    ["name", name],
  ]);
  for (const [key, value] of fn) if (!ordered.has(key)) ordered.set(key, value);
  const result: JsonObject = new Map<string, JsonValue>([
    ["id", id],
    ["function", ordered],
    ["type", "function"],
  ]);
  for (const [key, value] of call) if (!result.has(key)) result.set(key, value);
  return result;
}

/** Anything that is not a JSON object becomes an empty one, so that a broken call in the history does not fail every later turn. */
function parseArguments(text: string): JsonObject {
  if (text === "") return new Map();
  try {
    const value = parseLosslessJson(text);
    return value instanceof Map ? value : new Map();
  } catch (error) {
    if (error instanceof LosslessJsonError) return new Map();
    throw error;
  }
}
