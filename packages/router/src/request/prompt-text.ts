type Json = Readonly<Record<string, unknown>>;

/**
 * The text of a request's prompt, in the order in which engines put it together: tools, system, messages; or prompt, or input. Not what a tokenizer would be
 * given, but equal where that is equal, and different where that is different: for estimates. Empty when there is none.
 */
export function promptTextOf(json: Json): string {
  const parts: string[] = [];
  if (json.tools !== undefined && json.tools !== null) parts.push(JSON.stringify(json.tools));
  for (const field of [json.system, json.instructions]) if (field !== undefined && field !== null) parts.push(contentOf(field));
  for (const field of [json.messages, json.prompt, json.input]) {
    if (field === undefined || field === null) continue;
    for (const item of Array.isArray(field) ? field : [field]) parts.push(isObject(item) ? messageOf(item) : contentOf(item));
  }
  return parts.join("\n");
}

function messageOf(message: Json): string {
  const rest = message.tool_calls === undefined || message.tool_calls === null ? "" : JSON.stringify(message.tool_calls);
  return `${typeof message.role === "string" ? message.role : ""}\n${contentOf(message.content ?? message.output ?? "")}${rest}`;
}

function contentOf(content: unknown): string {
  if (typeof content === "string") return content;
  if (!Array.isArray(content)) return content === undefined || content === null ? "" : JSON.stringify(content);
  return content.map((part) => (isObject(part) && typeof part.text === "string" ? part.text : contentOf(part))).join("\n");
}

function isObject(value: unknown): value is Json {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
