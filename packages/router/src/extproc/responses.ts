import { isMessagesPath } from "../http/paths.ts";
import { anthropicError, type HttpError, openAiError } from "../request/openai-error.ts";
import type { HeaderMutation, ProcessingResponse, StreamedBody } from "./messages.ts";

/** Largest piece of a body in one message: some gateways take no more than 64 KiB, message framing included. */
export const maxChunkBytes = 62_000;
const overwriteOrAdd = 2;

export function setting(headers: Readonly<Record<string, string>>): NonNullable<HeaderMutation["setHeaders"]> {
  return Object.entries(headers).map(([key, value]) => ({
    header: { key, rawValue: Buffer.from(value, "latin1") },
    appendAction: overwriteOrAdd,
  }));
}

/** A body in pieces that fit into messages: at least one, the end only at the last, and there only when `ends`. */
export function streamedChunks(body: Buffer, ends: boolean): readonly StreamedBody[] {
  if (body.length <= maxChunkBytes) return [{ body, endOfStream: ends }];
  const chunks: StreamedBody[] = [];
  for (let at = 0; at < body.length; at += maxChunkBytes) {
    const end = Math.min(body.length, at + maxChunkBytes);
    chunks.push({ body: body.subarray(at, end), endOfStream: ends && end === body.length });
  }
  return chunks;
}

/** Why a request was not sent on, in the words of llm-d's router. */
const droppedReasons: Readonly<Record<number, string>> = { 429: "rejected-saturated", 503: "rejected-no-endpoints" };
const droppedHeader = "x-llm-d-request-dropped-reason";

/** The gateway answers the client itself, with the error as clients of the path expect it. */
export function immediateAnswer(error: HttpError, path: string, requestId: string | null): ProcessingResponse {
  const { status, message, param, retryAfterSeconds } = error;
  const body = isMessagesPath(path) ? anthropicError(status, message) : openAiError(status, message, param);
  const dropped = droppedReasons[status];
  return {
    immediateResponse: {
      status: { code: status },
      headers: {
        setHeaders: setting({
          "content-type": "application/json",
          ...(requestId === null ? {} : { "x-request-id": requestId }),
          ...(status === 401 ? { "www-authenticate": "Bearer" } : {}),
          ...(retryAfterSeconds === null ? {} : { "retry-after": String(retryAfterSeconds) }),
          ...(dropped === undefined ? {} : { [droppedHeader]: dropped }),
        }),
      },
      body: Buffer.from(JSON.stringify(body)),
      // Of the access log's %RESPONSE_CODE_DETAILS%.
      details: `kvatlas_refused_${status}`,
    },
  };
}
