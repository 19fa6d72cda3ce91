import type { IncomingMessage, ServerResponse } from "node:http";
import type { Clock } from "@kvatlas/shared/clock";
import type { UpstreamCredentials } from "../access/access-guard.ts";
import type { FleetEndpoint } from "../fleet/fleet.ts";
import type { InflightEntry } from "../fleet/inflight-tracker.ts";
import type { OutlierEjection } from "../fleet/outlier-ejection.ts";
import { AnswerModel } from "../models/answer-model.ts";
import { HttpError } from "../request/openai-error.ts";
import { clientResponseHeaders, type HeaderVerdicts, upstreamRequestHeaders } from "./headers.ts";
import type { RetryBudget } from "./retry-budget.ts";
import { type AttemptListener, UpstreamAttempt } from "./upstream-attempt.ts";
import type { UpstreamPools } from "./upstream-pools.ts";

export interface ForwardDeps {
  readonly pools: UpstreamPools;
  readonly ejection: Pick<OutlierEjection, "failed" | "succeeded">;
  readonly budget: RetryBudget;
  readonly verdicts: HeaderVerdicts;
  readonly credentials: () => UpstreamCredentials;
  readonly clock: Clock;
}

export interface ForwardOptions {
  readonly maxAttempts: number;
  readonly firstByteTimeoutMs: number;
  /** Between two pieces of an answer, whichever side keeps them waiting. */
  readonly idleTimeoutMs: number;
  /** From the request sent to the end of the answer. */
  readonly totalTimeoutMs: number;
}

export interface ForwardInput {
  readonly request: IncomingMessage;
  readonly response: ServerResponse;
  readonly requestId: string;
  /** Names the model in the answer otherwise than the replica does; null where it stays. */
  readonly answerModel: { readonly from: string; readonly to: string } | null;
  /** Where to go, in order of preference. */
  readonly endpoints: readonly FleetEndpoint[];
  /** Enters the request into the ledger. */
  readonly begin: (endpoint: FleetEndpoint) => InflightEntry;
  /** Headers to add to the answer of this endpoint, flat. */
  readonly ownHeaders: (endpoint: FleetEndpoint) => readonly string[];
  /** A retry begins, or is not made because there have been too many; `why` is a bounded set. */
  readonly onRetry: (why: RetryReason) => void;
  /** Body of the attempts after one that failed so; null: the same again. @defaultValue the same */
  readonly bodyAfter?: (why: RetryReason) => Buffer | null;
  /** The endpoint that failed may get another attempt where no other one is left: what it is sent next is something else. @defaultValue never */
  readonly mayRepeat?: () => boolean;
  /** Answers for which another endpoint is tried. @defaultValue 503 */
  readonly isRetried?: (status: number) => boolean;
}

export type RetryReason = "connect" | "cut" | "unavailable" | "over-budget";

export interface ForwardResult {
  /** `completed`; `client-gone`; `cut`: the replica went away in mid-answer, and the client's connection was closed so that it can tell. */
  readonly outcome: "completed" | "client-gone" | "cut";
  readonly endpoint: FleetEndpoint;
  readonly attempts: number;
  /** Null when the client left before there was one. */
  readonly status: number | null;
  /** From the call to the first byte of the body; null when there was none. */
  readonly firstByteMs: number | null;
  readonly bytes: number;
  /** The last two pieces of the body, as the replica sent them: what it says at the end is in them. */
  readonly lastPieces: readonly Buffer[];
}

/**
 * The head of an event stream is held back until its first event, for at most this long: engines send it before they start to compute,
 * and a replica that dies while it computes can be replaced only as long as the client has seen nothing.
 */
const heldHeadMs = 1_000;

/** What the client has already been sent of a broken answer may take this long to reach it. */
const flushMs = 2_000;

/**
 * Forwards a request and streams the answer back: bytes as they are, in the pieces in which they come, with back-pressure in both directions.
 *
 * Another endpoint is tried only while the client has not seen a byte: when no connection comes about, when the connection breaks, and when the
 * replica answers 503 (or what `isRetried` says). The client leaving closes the connection to the replica at once, in every phase.
 *
 * @param body - let go of as soon as no other attempt can need it
 * @throws HttpError 502, 503, 504 when there is no answer to pass on
 */
export function forward(deps: ForwardDeps, options: ForwardOptions, input: ForwardInput, body: Buffer | null): Promise<ForwardResult> {
  return new Forwarding(deps, options, input, body).run();
}

class Forwarding implements AttemptListener {
  readonly #deps: ForwardDeps;
  readonly #options: ForwardOptions;
  readonly #input: ForwardInput;
  readonly #startedAt: number;
  readonly #triedAddresses = new Set<string>();
  #resolve: (result: ForwardResult) => void = () => {};
  #reject: (error: unknown) => void = () => {};
  #body: Buffer | null;
  #endpoint: FleetEndpoint | null = null;
  #attempt: UpstreamAttempt | null = null;
  #attempts = 0;
  #entry: InflightEntry | null = null;
  /** First byte, then idle. */
  #timer: NodeJS.Timeout | null = null;
  #idles = false;
  #totalTimer: NodeJS.Timeout | null = null;
  #answerModel: AnswerModel | null = null;
  #heldHead: { readonly status: number; readonly statusText: string; readonly headers: string[]; readonly timer: NodeJS.Timeout } | null =
    null;
  #status: number | null = null;
  #firstByteMs: number | null = null;
  #bytes = 0;
  #lastPiece: Buffer | null = null;
  #pieceBefore: Buffer | null = null;
  #settled = false;

  constructor(deps: ForwardDeps, options: ForwardOptions, input: ForwardInput, body: Buffer | null) {
    this.#deps = deps;
    this.#options = options;
    this.#input = input;
    this.#body = body;
    this.#startedAt = deps.clock.monotonic();
  }

  run(): Promise<ForwardResult> {
    const { response } = this.#input;
    return new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
      response.on("close", () => this.#onClientClose());
      response.on("drain", () => {
        if (this.#idles) this.#timer?.refresh();
        this.#attempt?.resume();
      });
      const { firstByteTimeoutMs, totalTimeoutMs } = this.#options;
      this.#timer = setTimeout(() => this.#onTimeout(`sent nothing for ${firstByteTimeoutMs} ms`), firstByteTimeoutMs);
      this.#totalTimer = setTimeout(() => this.#onTimeout(`did not finish within ${totalTimeoutMs} ms`), totalTimeoutMs);
      this.#deps.budget.deposit();
      if (response.destroyed || response.socket?.destroyed === true) this.#onClientClose();
      else this.#next();
    });
  }

  onHead(status: number, statusText: string, rawHeaders: readonly Buffer[]): boolean {
    const endpoint = this.#endpoint;
    if (endpoint === null) return true;
    if ((this.#input.isRetried?.(status) ?? status === 503) && this.#mayRetry()) {
      this.#retry("unavailable", new Error(String(status)));
      return true;
    }
    this.#status = status;
    this.#deps.ejection.succeeded(endpoint.id);
    const { answerModel } = this.#input;
    if (answerModel !== null && isPlainText(rawHeaders)) this.#answerModel = new AnswerModel(answerModel.from, answerModel.to);
    const headers = clientResponseHeaders(this.#deps.verdicts, rawHeaders, this.#input.ownHeaders(endpoint), this.#answerModel !== null);
    if (status === 200 && isEventStream(rawHeaders)) {
      const timer = setTimeout(() => this.#releaseHead(), heldHeadMs);
      this.#heldHead = { status, statusText, headers, timer };
      return true;
    }
    this.#writeHead(status, statusText, headers);
    this.#beginIdle();
    return true;
  }

  onData(chunk: Buffer): boolean {
    if (this.#firstByteMs === null) this.#onFirstByte();
    else {
      this.#entry?.produced(1);
      this.#timer?.refresh();
    }
    this.#bytes += chunk.length;
    this.#pieceBefore = this.#lastPiece;
    this.#lastPiece = chunk;
    const passed = this.#answerModel === null ? chunk : this.#answerModel.next(chunk);
    return passed.length === 0 || this.#input.response.write(passed);
  }

  onComplete(): void {
    this.#releaseHead();
    const { response } = this.#input;
    // The close listener is told first that all is well: nothing is left to abort.
    this.#attempt = null;
    const left = this.#answerModel?.end() ?? null;
    if (left === null) response.end();
    else response.end(left);
    this.#settle("completed");
  }

  onError(error: Error): void {
    const endpoint = this.#endpoint;
    if (endpoint === null || this.#settled) return;
    if (!this.#input.response.headersSent) {
      const connected = this.#attempt?.connected === true;
      this.#deps.ejection.failed(endpoint.id);
      if (this.#mayRetry()) {
        this.#retry(connected ? "cut" : "connect", error);
        return;
      }
      const code = "code" in error && typeof error.code === "string" ? ` (${error.code})` : "";
      this.#fail(
        connected
          ? new HttpError(502, `replica ${endpoint.id} closed the connection before it answered${code}.`, { retryAfterSeconds: 1 })
          : new HttpError(503, `replica ${endpoint.id} cannot be reached${code}.`, { retryAfterSeconds: 1 }),
      );
      return;
    }
    this.#deps.ejection.failed(endpoint.id);
    this.#attempt = null;
    this.#settle("cut");
    cutConnection(this.#input.response);
  }

  #candidate(): FleetEndpoint | null {
    if (this.#attempts >= this.#options.maxAttempts) return null;
    // A process that is gone takes all of its ranks along: another address, not another rank.
    const other = this.#input.endpoints.find((endpoint) => !this.#triedAddresses.has(endpoint.address));
    return other ?? (this.#input.mayRepeat?.() === true ? this.#endpoint : null);
  }

  /** Another endpoint is there, and trying it is within the budget. */
  #mayRetry(): boolean {
    if (this.#candidate() === null) return false;
    if (this.#deps.budget.take()) return true;
    this.#input.onRetry("over-budget");
    return false;
  }

  #next(): void {
    const endpoint = this.#candidate();
    if (endpoint === null) {
      this.#fail(new HttpError(503, "no replica is left to try.", { retryAfterSeconds: 1 }));
      return;
    }
    this.#attempts += 1;
    this.#triedAddresses.add(endpoint.address);
    this.#endpoint = endpoint;
    this.#entry = this.#input.begin(endpoint);
    const attempt = new UpstreamAttempt(this);
    this.#attempt = attempt;
    const { request } = this.#input;
    try {
      this.#deps.pools.get(endpoint.address).dispatch(
        {
          path: request.url ?? "/",
          method: request.method ?? "GET",
          headers: upstreamRequestHeaders(
            this.#deps.verdicts,
            request.rawHeaders,
            this.#input.requestId,
            endpoint,
            this.#deps.credentials(),
          ),
          body: this.#body,
          blocking: false,
        },
        attempt,
      );
    } catch (error) {
      attempt.onError(error instanceof Error ? error : new Error(String(error)));
    }
  }

  #retry(why: RetryReason, reason: Error): void {
    this.#attempt?.giveUp(reason);
    this.#attempt = null;
    this.#entry?.end();
    this.#entry = null;
    if (this.#heldHead !== null) clearTimeout(this.#heldHead.timer);
    this.#heldHead = null;
    this.#answerModel = null;
    this.#status = null;
    this.#input.onRetry(why);
    this.#body = this.#input.bodyAfter?.(why) ?? this.#body;
    this.#next();
  }

  #onFirstByte(): void {
    this.#releaseHead();
    this.#firstByteMs = this.#deps.clock.monotonic() - this.#startedAt;
    this.#beginIdle();
    this.#entry?.firstByte();
    // From here on there is no other attempt.
    this.#body = null;
  }

  #releaseHead(): void {
    const held = this.#heldHead;
    if (held === null) return;
    this.#heldHead = null;
    clearTimeout(held.timer);
    this.#writeHead(held.status, held.statusText, held.headers);
    this.#input.response.flushHeaders();
  }

  #writeHead(status: number, statusText: string, headers: string[]): void {
    const { response } = this.#input;
    if (statusText === "") response.writeHead(status, headers);
    else response.writeHead(status, statusText, headers);
    this.#body = null;
  }

  #onTimeout(what: string): void {
    const endpoint = this.#endpoint;
    const error = new HttpError(504, `replica ${endpoint?.id ?? "?"} ${what}.`, { retryAfterSeconds: 1 });
    this.#attempt?.giveUp(error);
    this.#attempt = null;
    // A client that does not read is not the replica's fault.
    if (endpoint !== null && !this.#input.response.writableNeedDrain) this.#deps.ejection.failed(endpoint.id);
    if (!this.#input.response.headersSent) {
      this.#fail(error);
      return;
    }
    this.#settle("cut");
    cutConnection(this.#input.response);
  }

  #onClientClose(): void {
    if (this.#settled) return;
    this.#attempt?.giveUp(new Error("the client closed the connection"));
    this.#attempt = null;
    this.#settle("client-gone");
  }

  #fail(error: HttpError): void {
    if (this.#settled) return;
    this.#finish();
    this.#reject(error);
  }

  #settle(outcome: ForwardResult["outcome"]): void {
    if (this.#settled) return;
    this.#finish();
    const endpoint = this.#endpoint ?? this.#input.endpoints[0];
    if (endpoint === undefined) {
      this.#reject(new HttpError(503, "no replica is left to try.", { retryAfterSeconds: 1 }));
      return;
    }
    this.#resolve({
      outcome,
      endpoint,
      attempts: this.#attempts,
      status: this.#status,
      firstByteMs: this.#firstByteMs,
      bytes: this.#bytes,
      lastPieces: [this.#pieceBefore, this.#lastPiece].filter((piece) => piece !== null),
    });
  }

  #finish(): void {
    this.#settled = true;
    if (this.#timer !== null) clearTimeout(this.#timer);
    if (this.#totalTimer !== null) clearTimeout(this.#totalTimer);
    this.#timer = null;
    this.#totalTimer = null;
    if (this.#heldHead !== null) clearTimeout(this.#heldHead.timer);
    this.#heldHead = null;
    this.#entry?.end();
    this.#entry = null;
    this.#body = null;
  }

  /** From the first byte on, or from the head of an answer that is no stream. */
  #beginIdle(): void {
    if (this.#idles) return;
    this.#idles = true;
    if (this.#timer !== null) clearTimeout(this.#timer);
    const { idleTimeoutMs } = this.#options;
    this.#timer = setTimeout(() => this.#onTimeout(`paused for ${idleTimeoutMs} ms`), idleTimeoutMs);
  }
}

function isEventStream(rawHeaders: readonly Buffer[]): boolean {
  return headerOf(rawHeaders, "content-type")?.startsWith("text/event-stream") === true;
}

/** JSON in some form, as it was written. */
function isPlainText(rawHeaders: readonly Buffer[]): boolean {
  if (headerOf(rawHeaders, "content-encoding") !== null) return false;
  return /^(?:application\/json|text\/event-stream)/.test(headerOf(rawHeaders, "content-type") ?? "");
}

/** First value in lower case; null when there is none. */
function headerOf(rawHeaders: readonly Buffer[], wanted: string): string | null {
  for (let i = 0; i + 1 < rawHeaders.length; i += 2) {
    if (rawHeaders[i]?.length !== wanted.length || rawHeaders[i]?.toString("latin1").toLowerCase() !== wanted) continue;
    return rawHeaders[i + 1]?.toString("latin1").toLowerCase() ?? null;
  }
  return null;
}

/**
 * Ends a broken answer so that it cannot pass for a whole one: what was received is flushed, and the connection is closed without the final
 * chunk or the announced length.
 */
function cutConnection(response: ServerResponse): void {
  const { socket } = response;
  if (socket === null) {
    response.destroy();
    return;
  }
  if (response.req.httpVersion === "1.0") {
    // Without chunks the end of the connection is the end of the answer: only a reset says that it is none.
    socket.resetAndDestroy();
    return;
  }
  const timer = setTimeout(() => socket.destroy(), flushMs);
  socket.once("close", () => clearTimeout(timer));
  // Node corks the socket for the rest of this tick after a write.
  setImmediate(() => socket.destroySoon());
}
