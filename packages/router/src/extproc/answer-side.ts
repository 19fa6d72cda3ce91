import type { IncomingHttpHeaders } from "node:http";
import { AnswerModel } from "../models/answer-model.ts";
import type { BodyMode } from "./body-modes.ts";
import type { DispatchedRequest } from "./dispatched-request.ts";
import type { HttpBody, ProcessingResponse } from "./messages.ts";
import { headersOf, statusOf } from "./request-head.ts";
import { setting, streamedChunks } from "./responses.ts";

export interface AnswerSideOptions {
  readonly bodyMode: BodyMode;
  /** Names the model in the answer otherwise than the replica does; null where it stays. */
  readonly answerModel: { readonly from: string; readonly to: string } | null;
  /** Headers to add, flat. */
  readonly ownHeaders: () => readonly string[];
}

const noBytes = Buffer.alloc(0);

/**
 * The answer of a replica on its way through: every message is answered at once with what the gateway is to pass on, and told to the ledger. Bytes are
 * not looked at, unless the model's name has to be changed in them.
 */
export class AnswerSide {
  readonly #request: DispatchedRequest;
  readonly #options: AnswerSideOptions;
  #model: AnswerModel | null = null;
  #hasBegun = false;
  #isOver = false;

  constructor(request: DispatchedRequest, options: AnswerSideOptions) {
    this.#request = request;
    this.#options = options;
  }

  /** A head has come. */
  get hasBegun(): boolean {
    return this.#hasBegun;
  }

  /** The end has come, or cannot be seen because the gateway keeps the body to itself. */
  get isOver(): boolean {
    return this.#isOver || (this.#hasBegun && this.#options.bodyMode === "none");
  }

  head(map: Parameters<typeof headersOf>[0], ends: boolean): ProcessingResponse {
    const headers = headersOf(map);
    this.#hasBegun = true;
    this.#request.answered(statusOf(headers), isFromGateway(headers));
    const { answerModel, bodyMode, ownHeaders } = this.#options;
    if (bodyMode === "none" || ends) this.#request.begun();
    const renames = answerModel !== null && bodyMode !== "none" && !ends && isPlainText(headers);
    if (renames) this.#model = new AnswerModel(answerModel.from, answerModel.to);
    if (ends) this.#over();
    const own: Record<string, string> = {};
    const flat = ownHeaders();
    for (let i = 0; i + 1 < flat.length; i += 2) own[flat[i] ?? ""] = flat[i + 1] ?? "";
    return {
      responseHeaders: {
        response: { headerMutation: { setHeaders: setting(own), ...(renames ? { removeHeaders: ["content-length"] } : {}) } },
      },
    };
  }

  body({ body = noBytes, endOfStream = false }: HttpBody): readonly ProcessingResponse[] {
    if (body.length > 0) this.#request.piece(body);
    const passed = this.#passed(body, endOfStream);
    if (endOfStream) this.#over();
    if (this.#options.bodyMode === "duplex") {
      return streamedChunks(passed, endOfStream).map((streamedResponse) => ({
        responseBody: { response: { bodyMutation: { streamedResponse } } },
      }));
    }
    if (this.#model === null) return [{ responseBody: { response: {} } }];
    return [{ responseBody: { response: { bodyMutation: passed.length === 0 ? { clearBody: true } : { body: passed } } } }];
  }

  trailers(): readonly ProcessingResponse[] {
    const left = this.#model?.end() ?? null;
    this.#over();
    const trailers: ProcessingResponse = { responseTrailers: {} };
    if (left === null || this.#options.bodyMode !== "duplex") return [trailers];
    return [{ responseBody: { response: { bodyMutation: { streamedResponse: { body: left, endOfStream: false } } } } }, trailers];
  }

  #passed(body: Buffer, ends: boolean): Buffer {
    if (this.#model === null) return body;
    const next = this.#model.next(body);
    const left = ends || this.#options.bodyMode === "buffered" ? this.#model.end() : null;
    return left === null ? next : Buffer.concat([next, left]);
  }

  #over(): void {
    this.#isOver = true;
    this.#request.end("completed");
  }
}

/** An error page of the gateway's own: replicas answer errors in JSON. */
function isFromGateway(headers: IncomingHttpHeaders): boolean {
  const status = statusOf(headers);
  if (status !== 502 && status !== 503 && status !== 504) return false;
  return !/json/i.test(headers["content-type"] ?? "");
}

/** JSON in some form, as it was written. */
function isPlainText(headers: IncomingHttpHeaders): boolean {
  if (headers["content-encoding"] !== undefined) return false;
  return /^(?:application\/json|text\/event-stream)/i.test(headers["content-type"] ?? "");
}
