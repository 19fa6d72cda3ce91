import type { ServerResponse } from "node:http";
import { anthropicError, type HttpError, openAiError } from "../request/openai-error.ts";
import { isMessagesPath } from "./paths.ts";

/** Sends JSON, unless an answer has begun or the client has left. */
export function answerJson(response: ServerResponse, status: number, body: object, headers: Readonly<Record<string, string>> = {}): void {
  if (response.headersSent || response.destroyed) return;
  const text = JSON.stringify(body);
  response.writeHead(status, { "content-type": "application/json", "content-length": Buffer.byteLength(text), ...headers });
  response.end(text);
}

/** Sends an error as clients of the path expect it. */
export function answerError(response: ServerResponse, error: HttpError, requestId: string, path = ""): void {
  const { status, message, param, retryAfterSeconds } = error;
  answerJson(response, status, isMessagesPath(path) ? anthropicError(status, message) : openAiError(status, message, param), {
    "x-request-id": requestId,
    ...(status === 401 ? { "www-authenticate": "Bearer" } : {}),
    ...(retryAfterSeconds === null ? {} : { "retry-after": String(retryAfterSeconds) }),
  });
}
