import { randomUUID } from "node:crypto";
import { EventEmitter } from "node:events";
import type { IncomingHttpHeaders } from "node:http";
import type { RouterConfig } from "@kvatlas/shared/config/schema";
import type { AccessGuard } from "../access/access-guard.ts";
import { ownHeaders } from "../handling/own-headers.ts";
import type { AskedRequest, PreparedRequest, PrepareRequest, Progress } from "../handling/prepare-request.ts";
import type { BodyBudget } from "../http/read-body.ts";
import { acceptableRequestId } from "../proxy/headers.ts";
import { HttpError } from "../request/openai-error.ts";
import { AnswerSide } from "./answer-side.ts";
import { BodyCollector } from "./body-collector.ts";
import { type BodyModes, bodyModesOf } from "./body-modes.ts";
import { type DispatchDeps, DispatchedRequest } from "./dispatched-request.ts";
import { servedIn, subsetIn } from "./endpoint-hints.ts";
import type { ExtProcMetrics } from "./extproc-metrics.ts";
import type { HttpBody, ProcessingRequest, ProcessingResponse } from "./messages.ts";
import { refuseControlPath, sniffPath } from "./paths.ts";
import { eligibleFor } from "./pick-scope.ts";
import { headersOf, pathOf } from "./request-head.ts";
import { immediateAnswer, streamedChunks } from "./responses.ts";
import { requestMutation } from "./steering.ts";
import type { createTimedDecide } from "./timed-decide.ts";

export interface ExchangeDeps extends DispatchDeps {
  readonly prepare: PrepareRequest;
  readonly decide: ReturnType<typeof createTimedDecide>;
  readonly access: Pick<AccessGuard, "tenantOf" | "credentials">;
  readonly bodies: BodyBudget;
  readonly extProcMetrics: ExtProcMetrics;
}

/** The other side of a stream. */
export interface ExchangeStream {
  send(response: ProcessingResponse): void;
  /** Nothing more will be sent. */
  end(): void;
}

/** What a request is until its head has come. */
interface Head {
  readonly asked: Omit<AskedRequest, "path">;
  /** Null when the gateway does not say. */
  readonly path: string | null;
  readonly modes: BodyModes;
}

/**
 * Where a stream is: `waiting` for the body, `deciding`, `told` (the gateway knows where to), or `over` (an error was sent, or the gateway has left).
 */
type Phase = "head" | "waiting" | "deciding" | "told" | "over";

/**
 * One request of a gateway, from its head to the end of its answer: a stream of messages, each of which is answered in the form that the gateway's body
 * mode asks for. Whatever comes, in whatever order, what the request holds is released exactly once.
 */
export class Exchange {
  readonly #deps: ExchangeDeps;
  readonly #config: RouterConfig;
  readonly #stream: ExchangeStream;
  readonly #startedAt: number;
  readonly #body: BodyCollector;
  readonly #client = Object.assign(new EventEmitter(), { destroyed: false });
  readonly #progress: Progress = { model: null, permit: null };
  #phase: Phase = "head";
  #head: Head | null = null;
  #subset: readonly string[] | null = null;
  #hasTrailers = false;
  /** Answers that have to wait for that to the head. */
  #afterDecision: ProcessingResponse[] = [];
  #dispatched: DispatchedRequest | null = null;
  #answer: AnswerSide | null = null;
  #hasHalfClosed = false;

  constructor(deps: ExchangeDeps, config: RouterConfig, stream: ExchangeStream) {
    this.#deps = deps;
    this.#config = config;
    this.#stream = stream;
    this.#startedAt = deps.clock.monotonic();
    this.#body = new BodyCollector(deps.bodies);
  }

  receive(message: ProcessingRequest): void {
    if (this.#phase === "over" || message.observabilityMode === true) return;
    try {
      this.#receive(message);
    } catch (error) {
      this.#refuse(error);
    }
  }

  /** The gateway sends no more. */
  halfClosed(): void {
    this.#hasHalfClosed = true;
    if (this.#phase === "deciding") return;
    // Having been answered, it has seen enough of the request, or the client has left; before, only the latter.
    if (this.#phase === "told") this.#finish(this.#answer?.isOver === true ? "completed" : "client-gone");
    else this.gone();
    this.#stream.end();
  }

  /** The stream is no more. */
  gone(): void {
    if (this.#phase === "over") return;
    const wasOpen = this.#phase !== "told";
    this.#finish(this.#answer?.isOver === true ? "completed" : "client-gone");
    if (wasOpen && this.#head !== null) this.#deps.metrics.finished("client-gone", null);
    this.#client.destroyed = true;
    this.#client.emit("close");
  }

  #receive(message: ProcessingRequest): void {
    const { metadataContext } = message;
    if (metadataContext !== undefined) {
      const subset = subsetIn(metadataContext);
      // Of several the last that names anybody counts.
      if (subset !== null && (this.#subset === null || subset.length > 0)) this.#subset = subset;
      const served = servedIn(metadataContext);
      if (served !== null) this.#dispatched?.servedBy(served);
    }
    switch (message.request) {
      case "requestHeaders":
        this.#onHead(message);
        return;
      case "requestBody":
        this.#onBody(message.requestBody ?? {});
        return;
      case "requestTrailers":
        this.#onTrailers();
        return;
      case "responseHeaders": {
        const { headers, endOfStream = false } = message.responseHeaders ?? {};
        this.#stream.send(this.#answer?.head(headers, endOfStream) ?? { responseHeaders: {} });
        return;
      }
      case "responseBody":
        this.#onAnswerBody(message.responseBody ?? {});
        return;
      case "responseTrailers":
        for (const response of this.#answer?.trailers() ?? [{ responseTrailers: {} }]) this.#stream.send(response);
        return;
      default:
    }
  }

  #onHead({ requestHeaders, protocolConfig }: ProcessingRequest): void {
    if (this.#phase !== "head") return;
    const headers = headersOf(requestHeaders?.headers);
    const modes = bodyModesOf(this.#config.extProc.bodyMode, protocolConfig);
    this.#deps.extProcMetrics.opened(modes.request);
    const requestId = acceptableRequestId(headers["x-request-id"]) ?? randomUUID();
    const path = pathOf(headers);
    this.#head = { asked: { headers, requestId, tenant: null }, path, modes };
    this.#phase = "waiting";
    this.#head = { ...this.#head, asked: { headers, requestId, tenant: this.#deps.access.tenantOf(headers) } };
    refuseControlPath(headers, path);
    this.#body.announce(announcedBytes(headers));
    if (requestHeaders?.endOfStream === true || modes.request === "none" || modes.request === "streamed") {
      void this.#decide(this.#head, false);
      return;
    }
    // The gateway keeps a buffered body until its head is answered.
    if (modes.request === "buffered") this.#stream.send({ requestHeaders: { response: {} } });
  }

  #onBody(message: HttpBody): void {
    const head = this.#head;
    if (head === null) return;
    if (this.#phase !== "waiting") {
      if (head.modes.request === "streamed") this.#sendAfterDecision({ requestBody: { response: {} } });
      return;
    }
    this.#body.push(message.body);
    if (message.endOfStream === true || head.modes.request === "buffered") void this.#decide(head, true);
  }

  #onTrailers(): void {
    const head = this.#head;
    if (head === null) return;
    if (this.#phase === "waiting" && head.modes.request === "duplex") {
      this.#hasTrailers = true;
      void this.#decide(head, true);
      return;
    }
    this.#sendAfterDecision({ requestTrailers: {} });
  }

  #onAnswerBody(message: HttpBody): void {
    if (this.#answer !== null) {
      for (const response of this.#answer.body(message)) this.#stream.send(response);
      return;
    }
    // An answer of the gateway's own to a request that nothing is known of.
    const { body = Buffer.alloc(0), endOfStream = false } = message;
    const isStreamed = this.#head?.modes.response === "duplex";
    const bodyMutation = { streamedResponse: { body, endOfStream } };
    this.#stream.send({ responseBody: { response: isStreamed ? { bodyMutation } : {} } });
  }

  async #decide(head: Head, hasBody: boolean): Promise<void> {
    this.#phase = "deciding";
    try {
      const body = this.#body.body;
      const asked = { ...head.asked, path: head.path ?? sniffPath(body) };
      const { prepare, decide } = this.#deps;
      const prepared = await prepare(withType(asked, body), body, this.#client, this.#progress, {
        eligible: eligibleFor(this.#subset),
        decide,
        ...(head.modes.request === "none" || head.modes.request === "streamed"
          ? { withoutBody: { model: modelNamedIn(asked.headers) } }
          : {}),
      });
      if (this.#phase !== "deciding" || prepared === null) {
        prepared?.decision.placement?.failed();
        this.#progress.permit?.release();
        return;
      }
      this.#tell(head, asked, prepared, hasBody ? body : null);
    } catch (error) {
      // Whoever has left needs no answer.
      if (this.#phase === "deciding") this.#refuse(error);
      this.#progress.permit?.release();
    }
    if (this.#hasHalfClosed) {
      this.#finish("handed-over");
      this.#stream.end();
    }
  }

  #tell(head: Head, asked: AskedRequest, prepared: PreparedRequest, body: Buffer | null): void {
    const { decision, resolved, bytes } = prepared;
    const dispatched = new DispatchedRequest(this.#deps, {
      asked,
      model: this.#progress.model,
      prepared: { decision, resolved },
      bodyBytes: bytes.length,
      startedAt: this.#startedAt,
    });
    this.#phase = "told";
    this.#dispatched = dispatched;
    const { alias, target, restoreInAnswers } = resolved;
    this.#answer = new AnswerSide(dispatched, {
      bodyMode: head.modes.response,
      answerModel: restoreInAnswers && alias !== null && target !== null ? { from: target, to: alias } : null,
      ownHeaders: () => ownHeaders(this.#config, asked.requestId, decision, dispatched.endpoint),
    });
    const mode = body === null ? "none" : head.modes.request;
    const { mutation, metadata } = requestMutation({
      asked,
      decision,
      credentials: this.#deps.access.credentials,
      maxEndpoints: this.#config.extProc.maxEndpoints,
      // With trailers the length must not be said: it would leave no place for them.
      bodyBytes: mode === "none" || this.#hasTrailers ? null : bytes.length,
    });
    const response = { headerMutation: mutation, clearRouteCache: true };
    if (mode === "buffered") {
      const isChanged = bytes !== body;
      this.#stream.send({
        requestBody: { response: { ...response, ...(isChanged ? { bodyMutation: { body: bytes } } : {}) } },
        dynamicMetadata: metadata,
      });
    } else {
      this.#stream.send({ requestHeaders: { response }, dynamicMetadata: metadata });
      if (mode === "duplex") {
        for (const streamedResponse of streamedChunks(bytes, !this.#hasTrailers)) {
          this.#stream.send({ requestBody: { response: { bodyMutation: { streamedResponse } } } });
        }
        if (this.#hasTrailers) this.#stream.send({ requestTrailers: {} });
      }
    }
    for (const late of this.#afterDecision) this.#stream.send(late);
    this.#afterDecision = [];
    this.#body.release();
  }

  #sendAfterDecision(response: ProcessingResponse): void {
    if (this.#phase === "deciding") this.#afterDecision.push(response);
    else this.#stream.send(response);
  }

  /** Lets the gateway answer with an error, which is the end. */
  #refuse(error: unknown): void {
    const known = error instanceof HttpError;
    const answer = known ? error : new HttpError(500, "the router failed to handle this request; see its log.");
    const { asked, path } = this.#head ?? { asked: null, path: null };
    const { extProcMetrics, metrics, logger, clock } = this.#deps;
    extProcMetrics.refused(answer.status);
    metrics.finished("refused", answer.status);
    logger[known ? "info" : "error"](
      {
        "x-request-id": asked?.requestId,
        model: this.#progress.model,
        path,
        status: answer.status,
        outcome: "refused",
        gateway: true,
        ...(known ? { why: answer.message } : { err: error }),
        totalMs: clock.monotonic() - this.#startedAt,
      },
      "request handled",
    );
    this.#stream.send(immediateAnswer(answer, path ?? "", asked?.requestId ?? null));
    this.#finish("client-gone");
    this.#stream.end();
  }

  /** Releases everything; what has been accounted for stays so. */
  #finish(outcome: "completed" | "client-gone" | "handed-over"): void {
    this.#phase = "over";
    this.#dispatched?.end(outcome);
    this.#body.release();
    this.#progress.permit?.release();
    this.#afterDecision = [];
  }
}

function announcedBytes(headers: IncomingHttpHeaders): number {
  const bytes = Number(headers["content-length"] ?? 0);
  return Number.isFinite(bytes) ? bytes : 0;
}

/** A gateway that reads bodies itself, to route by model, names it in a header. */
function modelNamedIn(headers: IncomingHttpHeaders): string | null {
  const name = headers["x-gateway-model-name"];
  return typeof name === "string" && name !== "" ? name : null;
}

/** What gateways hand over without a content type is an OpenAI request when it looks like one. */
function withType(asked: AskedRequest, body: Buffer): AskedRequest {
  if (asked.headers["content-type"] !== undefined || body[0] !== 0x7b) return asked;
  return { ...asked, headers: { ...asked.headers, "content-type": "application/json" } };
}
