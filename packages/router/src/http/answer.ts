import type { ServerResponse } from "node:http";
import { type HttpError, openAiError } from "../request/openai-error.ts";

/** Sends JSON, unless an answer has begun or the client has left. */
export function answerJson(response: ServerResponse, status: number, body: object, headers: Readonly<Record<string, string>> = {}): void {
  if (response.headersSent || response.destroyed) return;
  const text = JSON.stringify(body);
  response.writeHead(status, { "content-type": "application/json", "content-length": Buffer.byteLength(text), ...headers });
  response.end(text);
}

/** Sends an error as OpenAI clients expect it. */
export function answerError(response: ServerResponse, error: HttpError, requestId: string): void {
  answerJson(response, error.status, openAiError(error.status, error.message, error.param), {
    "x-request-id": requestId,
    ...(error.retryAfterSeconds === null ? {} : { "retry-after": String(error.retryAfterSeconds) }),
  });
}
