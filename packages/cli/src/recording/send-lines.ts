import { rawMember } from "./raw-member.ts";
import { isJson, type Json, show } from "./recording-line.ts";

/** A request to send, its body byte for byte as the file has it. */
export interface SendLine {
  readonly path: string;
  readonly bodyText: string;
  readonly headers: Readonly<Record<string, string>>;
}

/**
 * Reads one line of a file of requests: `{"path": ..., "headers": ..., "body": {...}}`, or an OpenAI body alone, whose fields tell its path.
 * Answers a sentence where it is neither.
 */
export function parseSendLine(text: string): SendLine | string {
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch {
    return "not JSON";
  }
  if (!isJson(json)) return "not a JSON object";
  if (!isJson(json.body)) {
    const path = pathOf(json);
    return path === null
      ? 'no "body", and none of messages, prompt, input, token_ids by which to tell the path'
      : { path, bodyText: text, headers: {} };
  }
  const path = json.path ?? pathOf(json.body);
  if (typeof path !== "string" || !path.startsWith("/")) return `path is ${show(path)}, expected one that begins with "/"`;
  const headers: Record<string, string> = {};
  if (isJson(json.headers)) for (const [name, value] of Object.entries(json.headers)) headers[name] = String(value);
  return { path, bodyText: rawMember(text, "body") ?? JSON.stringify(json.body), headers };
}

function pathOf(body: Json): string | null {
  if (body.messages !== undefined) return "/v1/chat/completions";
  if (body.prompt !== undefined) return "/v1/completions";
  if (body.input !== undefined) return "/v1/responses";
  return body.token_ids === undefined ? null : "/inference/v1/generate";
}
