import type { IncomingMessage, ServerResponse } from "node:http";
import type { Clock } from "@kvatlas/shared/clock";
import type { RouterConfig } from "@kvatlas/shared/config/schema";
import type { Logger } from "@kvatlas/shared/logger";
import { DecodeStep } from "../disaggregation/decode-step.ts";
import { type HandedOver, handOver, prefillFields } from "../disaggregation/hand-over.ts";
import type { InflightEntry, InflightTracker } from "../fleet/inflight-tracker.ts";
import { handledLine } from "../handling/handled-line.ts";
import { ownHeaders } from "../handling/own-headers.ts";
import { createPrepareRequest, type PrepareDeps, type PreparedRequest, type Progress } from "../handling/prepare-request.ts";
import { beginAt } from "../handling/sent-request.ts";
import type { RouterMetrics } from "../metrics.ts";
import { type ForwardDeps, type ForwardInput, type ForwardResult, forward } from "../proxy/forward.ts";
import { cachedTokensIn } from "../quality/cached-tokens.ts";
import type { DecisionQuality } from "../quality/decision-quality.ts";
import { HttpError } from "../request/openai-error.ts";
import type { Decision } from "../routing/decision.ts";
import { answerError } from "./answer.ts";
import { type BodyBudget, type HeldBody, readBody } from "./read-body.ts";

export interface ProxyRouteDeps extends ForwardDeps, PrepareDeps {
  readonly inflight: InflightTracker;
  readonly bodies: BodyBudget;
  readonly metrics: RouterMetrics;
  readonly quality: DecisionQuality;
  readonly clock: Clock;
  readonly logger: Logger;
}

/** A request as it came in. */
export interface Incoming {
  readonly request: IncomingMessage;
  readonly response: ServerResponse;
  /** Without the query. */
  readonly path: string;
  readonly requestId: string;
  /** Whose API key it came with; null where none is asked for. */
  readonly tenant: string | null;
}

/** Reads, waits for its turn where there is too much, decides, forwards and accounts for one request. Never rejects. */
export function createProxyRoute(deps: ProxyRouteDeps, config: RouterConfig) {
  const prepare = createPrepareRequest(deps, config);
  return async (incoming: Incoming): Promise<void> => {
    const { request, response, path, requestId, tenant } = incoming;
    const startedAt = deps.clock.monotonic();
    const progress: Progress = { model: null, permit: null };
    let body: HeldBody | null = null;
    let decision: Decision | null = null;
    let arrived: (() => void) | null = null;
    try {
      body = await readBody(request, deps.bodies);
      if (body === null) {
        deps.metrics.finished("client-gone", null);
        return;
      }
      let prepared = await prepare({ path, headers: request.headers, requestId, tenant }, body.bytes, response, progress);
      if (prepared === null) {
        deps.metrics.finished("client-gone", null);
        return;
      }
      const { resolved } = prepared;
      decision = prepared.decision;
      let handed = decision.division?.outcome === "divided" ? await prefill(incoming, prepared) : null;
      const prefillStep = handed === null ? null : prefillFields(handed);
      const isHanded = handed?.prefill != null;
      arrived = handed?.arrived ?? null;
      const beforeSendMs = deps.clock.monotonic() - startedAt;
      const sending = send(incoming, body, prepared, handed);
      // The bytes are large, and must not live for as long as the answer takes.
      prepared = null;
      handed = null;
      const result = await sending;
      // What was refused was not computed.
      if (result.status === null || result.status >= 400) decision.placement?.failed();
      // What was handed over counts as cached where it is decoded.
      else if (result.outcome === "completed" && !isHanded)
        deps.quality.answered(decision, result.endpoint.id, cachedTokensIn(result.lastPieces));
      const totalMs = deps.clock.monotonic() - startedAt;
      const firstByteMs = result.firstByteMs === null ? null : beforeSendMs + result.firstByteMs;
      if (firstByteMs !== null) deps.metrics.firstByte(decision.mode, firstByteMs);
      deps.metrics.finished(result.outcome, result.status);
      deps.logger.info(
        handledLine(
          { asked: incoming, model: progress.model, resolved, decision, endpoint: result.endpoint },
          { status: result.status, outcome: result.outcome, firstByteMs, totalMs, attempts: result.attempts, prefill: prefillStep },
        ),
        "request handled",
      );
    } catch (error) {
      refuse(incoming, { model: progress.model, decision, startedAt }, error);
    } finally {
      arrived?.();
      body?.release();
      progress.permit?.release();
    }
  };

  /** The first step of a request that is divided. */
  function prefill({ request, response, requestId }: Incoming, { bytes, decision }: PreparedRequest): Promise<HandedOver> {
    return handOver(
      {
        ...deps,
        onPrefill: (result, ms) => deps.metrics.prefilled(result, ms),
        onCached: (endpoint, cachedTokens) =>
          deps.quality.answered({ ...decision, ranking: decision.division?.prefill ?? [] }, endpoint.id, cachedTokens),
      },
      { prefillTimeoutMs: config.disaggregation.prefillTimeoutMs, maxAttempts: config.maxAttempts },
      { request, response, requestId, decision, body: bytes },
    );
  }

  function send(
    { request, response, requestId }: Incoming,
    held: HeldBody,
    prepared: PreparedRequest,
    handed: HandedOver | null,
  ): Promise<ForwardResult> {
    const { bytes, resolved, decision } = prepared;
    const { alias, target } = resolved;
    const { length } = bytes;
    const step = handed === null ? null : new DecodeStep(handed, bytes);
    const handedOver = handed?.arrived;
    const input: ForwardInput = {
      request,
      response,
      requestId,
      answerModel: resolved.restoreInAnswers && alias !== null && target !== null ? { from: target, to: alias } : null,
      endpoints: decision.ranking.map((ranked) => ranked.endpoint),
      begin: (endpoint) => {
        handedOver?.();
        step?.sending();
        return releasing(held, step, beginAt(deps.inflight, decision, endpoint, length, step?.prefill != null));
      },
      ownHeaders: (endpoint) => ownHeaders(config, requestId, decision, endpoint, step?.prefill),
      onRetry: (why) => deps.metrics.retried(why),
      ...step?.forwarding,
    };
    return forward(deps, config, input, length === 0 ? null : step === null ? bytes : step.firstBody());
  }

  function refuse(
    incoming: Incoming,
    about: { readonly model: string | null; readonly decision: Decision | null; readonly startedAt: number },
    error: unknown,
  ): void {
    const { response, requestId, path } = incoming;
    const known = error instanceof HttpError;
    const answer = known ? error : new HttpError(500, "the router failed to handle this request; see its log.");
    deps.metrics.finished("refused", answer.status);
    deps.logger[known ? "info" : "error"](
      handledLine(
        { asked: incoming, model: about.model, resolved: null, decision: about.decision, endpoint: about.decision?.endpoint ?? null },
        {
          status: answer.status,
          outcome: "refused",
          totalMs: deps.clock.monotonic() - about.startedAt,
          ...(known ? { why: answer.message } : { err: error }),
        },
      ),
      "request handled",
    );
    answerError(response, answer, requestId, path);
  }
}

/** The body is let go of with the first byte of the answer: no other attempt will need it. */
function releasing(held: HeldBody, step: DecodeStep | null, entry: InflightEntry): InflightEntry {
  return {
    firstByte: () => {
      held.release();
      step?.begun();
      entry.firstByte();
    },
    produced: entry.produced,
    end: entry.end,
  };
}
