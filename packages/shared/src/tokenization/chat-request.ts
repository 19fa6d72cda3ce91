import { chatMessage } from "./chat-message.ts";
import type { ContentFormat } from "./jinja/content-format.ts";
import type { JsonObject, JsonValue } from "./lossless-json.ts";
import { arrayField, booleanField, cannotEncode, describe, objectField, promptInvalid, stringField } from "./request-body.ts";

/** A chat request without what depends on the template. */
export interface ChatRequest {
  readonly messages: readonly JsonValue[];
  /** In the engine's form; null when the request has none. */
  readonly tools: JsonValue;
  /** Variables beside messages and tools. */
  readonly variables: ReadonlyMap<string, JsonValue>;
  readonly continueFinalMessage: boolean;
  readonly addSpecialTokens: boolean;
}

/** Arguments of transformers' apply_chat_template that never reach the template. */
const NOT_VARIABLES = new Set([
  "continue_final_message",
  "padding",
  "truncation",
  "max_length",
  "return_tensors",
  "return_dict",
  "return_assistant_tokens_mask",
  "tokenizer_kwargs",
]);

/**
 * What vLLM 0.32 makes of a chat request before the template (ChatCompletionRequest, build_chat_params, merge_kwargs).
 *
 * @param defaults `--default-chat-template-kwargs` of the server.
 */
export function chatRequest(body: JsonObject, defaults: ReadonlyMap<string, JsonValue>): ChatRequest {
  const messages = body.get("messages");
  if (!Array.isArray(messages) || messages.length === 0)
    throw promptInvalid(`messages must be an array with at least one message, got ${describe(messages)}`);
  if ((body.get("chat_template") ?? null) !== null)
    throw cannotEncode("a chat_template in the request depends on the server's --trust-request-chat-template");
  const addGenerationPrompt = strictBoolean(body, "add_generation_prompt", true);
  const continueFinalMessage = strictBoolean(body, "continue_final_message", false);
  if (addGenerationPrompt && continueFinalMessage) {
    throw promptInvalid("continue_final_message needs add_generation_prompt false: an answer is continued, or a new one is begun");
  }
  const kwargs = objectField(body, "chat_template_kwargs") ?? new Map<string, JsonValue>();
  for (const name of ["tokenize", "chat_template", "messages", "conversation"]) {
    if (kwargs.has(name)) throw promptInvalid(`chat_template_kwargs must not have "${name}"`);
  }
  const tools = toolDefinitions(body);
  checkToolChoice(body, tools);

  const effort = stringField(body, "reasoning_effort");
  const extra = new Map<string, JsonValue>([
    ["add_generation_prompt", addGenerationPrompt],
    ["documents", documentsOf(body)],
    ["reasoning_effort", effort],
  ]);
  if (effort !== null && !kwargs.has("enable_thinking")) extra.set("enable_thinking", effort !== "none");

  const request = merge(merge(new Map<string, JsonValue>([["tools", tools]]), kwargs), extra);
  const variables = new Map(merge(new Map(defaults), request));
  const allTools = variables.get("tools") ?? null;
  variables.delete("tools");
  for (const name of NOT_VARIABLES) variables.delete(name);
  if (!variables.has("documents")) variables.set("documents", null);
  return { messages, tools: allTools, variables, continueFinalMessage, addSpecialTokens: booleanField(body, "add_special_tokens", false) };
}

/** The engine's request model has no null for these. */
function strictBoolean(body: JsonObject, name: string, fallback: boolean): boolean {
  if (body.has(name) && body.get(name) === null) throw promptInvalid(`${name} must be true or false, got null`);
  return booleanField(body, name, fallback);
}

/** null and "auto" never override (vLLM renderers/params.py merge_kwargs). */
function merge(base: Map<string, JsonValue>, overrides: ReadonlyMap<string, JsonValue>): Map<string, JsonValue> {
  for (const [name, value] of overrides) if (value !== null && value !== "auto") base.set(name, value);
  return base;
}

function documentsOf(body: JsonObject): JsonValue {
  const documents = arrayField(body, "documents");
  if (documents?.some((document) => !(document instanceof Map))) throw promptInvalid("every document must be an object");
  return documents;
}

/**
 * Tools as the engine's models print them: {type, function: {name, description, parameters[, strict][, defer_loading]}[, defer_loading]};
 * description and parameters are null when missing, other fields are dropped, and what is inside `parameters` stays as sent.
 */
function toolDefinitions(body: JsonObject): JsonValue {
  const tools = arrayField(body, "tools");
  if (tools === null) return null;
  if (tools.length === 0) throw promptInvalid("tools must not be an empty array: leave it out");
  return tools.map((tool): JsonObject => {
    if (!(tool instanceof Map)) throw promptInvalid(`every tool must be an object, got ${describe(tool)}`);
    const type = tool.get("type") ?? "function";
    const fn = tool.get("function");
    if (type !== "function" || !(fn instanceof Map))
      throw promptInvalid(`every tool must be a function, got type ${describe(type)} with function ${describe(fn)}`);
    const name = fn.get("name");
    if (typeof name !== "string") throw promptInvalid(`every tool needs a function name, got ${describe(name)}`);
    const definition: JsonObject = new Map<string, JsonValue>([
      ["name", name],
      ["description", stringField(fn, "description")],
      ["parameters", objectField(fn, "parameters")],
    ]);
    copySet(fn, definition, ["strict", "defer_loading"]);
    const result: JsonObject = new Map<string, JsonValue>([
      ["type", "function"],
      ["function", definition],
    ]);
    copySet(tool, result, ["defer_loading"]);
    return result;
  });
}

function copySet(from: JsonObject, to: JsonObject, names: readonly string[]): void {
  for (const name of names) {
    const value = from.get(name) ?? null;
    if (value !== null) to.set(name, value);
  }
}

function checkToolChoice(body: JsonObject, tools: JsonValue): void {
  const choice = body.get("tool_choice") ?? null;
  if (choice === null || choice === "none") return;
  if (!Array.isArray(tools)) throw promptInvalid("tool_choice needs tools");
  if (choice === "auto" || choice === "required") return;
  const named = choice instanceof Map ? choice.get("function") : undefined;
  const name = named instanceof Map ? named.get("name") : undefined;
  const known = tools.some((tool) => {
    const fn = tool instanceof Map ? tool.get("function") : undefined;
    return fn instanceof Map && fn.get("name") === name;
  });
  if (typeof name !== "string" || !known) throw promptInvalid('tool_choice must be "none", "auto", "required" or name one of the tools');
}

/**
 * Messages as the template sees them. A template that does not know the role `developer` gets `system` instead; then all system
 * messages are merged into one in front, unless the only one is there already.
 */
export function chatMessages(messages: readonly JsonValue[], format: ContentFormat, knowsDeveloper: boolean): JsonObject[] {
  const parsed = messages.map((message) => chatMessage(message, format));
  if (knowsDeveloper || !parsed.some((message) => message.get("role") === "developer")) return parsed;
  for (const message of parsed) {
    if (message.get("role") !== "developer") continue;
    message.set("role", "system");
    message.delete("tools");
  }
  const system = parsed.filter((message) => message.get("role") === "system");
  const [first] = system;
  if (first === undefined || (system.length === 1 && parsed[0] === first)) return parsed;
  const text = system
    .map((message) => plainText(message.get("content") ?? ""))
    .filter((part) => part !== "")
    .join("\n\n");
  const content: JsonValue =
    format === "string"
      ? text
      : [
          new Map<string, JsonValue>([
            ["type", "text"],
            ["text", text],
          ]),
        ];
  const merged: JsonObject = new Map<string, JsonValue>([
    ["role", "system"],
    ["content", content],
  ]);
  return [merged, ...parsed.filter((message) => message.get("role") !== "system")];
}

function plainText(content: JsonValue): string {
  if (typeof content === "string") return content;
  if (!Array.isArray(content)) return "";
  return content.map((part) => (part instanceof Map ? String(part.get("text") ?? "") : "")).join("\n");
}
