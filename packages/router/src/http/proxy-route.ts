import type { IncomingMessage, ServerResponse } from "node:http";
import type { Clock } from "@kvatlas/shared/clock";
import type { RouterConfig } from "@kvatlas/shared/config/schema";
import type { Logger } from "@kvatlas/shared/logger";
import type { PromptEncoder } from "@kvatlas/shared/tokenization/prompt-encoder";
import { type FleetEndpoint, type FleetSnapshot, type ModelRoute, routeOfModel } from "../fleet/fleet.ts";
import type { InflightEntry, InflightTracker } from "../fleet/inflight-tracker.ts";
import type { RouterMetrics } from "../metrics.ts";
import { type ModelRoutes, type ResolvedModel, resolveModel } from "../models/model-routes.ts";
import { withModel } from "../models/with-model.ts";
import type { Permit } from "../overload/admission.ts";
import type { OverloadControl } from "../overload/overload-control.ts";
import { type ForwardDeps, type ForwardInput, type ForwardResult, forward } from "../proxy/forward.ts";
import { cachedTokensIn } from "../quality/cached-tokens.ts";
import type { DecisionQuality } from "../quality/decision-quality.ts";
import { modelOfForm } from "../request/model-of-body.ts";
import { HttpError } from "../request/openai-error.ts";
import { type ParsedRequest, parseRequest } from "../request/parse-request.ts";
import type { Decider } from "../routing/decide.ts";
import type { Decision } from "../routing/decision.ts";
import { decisionHeader, logFieldsOf, matchingRatio } from "../routing/explain.ts";
import type { Placement } from "../routing/placement.ts";
import { forwardedIds } from "../tokenization/forwarded-ids.ts";
import { answerError } from "./answer.ts";
import { isPromptPath } from "./paths.ts";
import { type BodyBudget, type HeldBody, readBody } from "./read-body.ts";

export interface ProxyRouteDeps extends ForwardDeps {
  readonly decider: Decider;
  readonly fleet: { readonly snapshot: FleetSnapshot };
  readonly inflight: InflightTracker;
  readonly encoders: ReadonlyMap<string, PromptEncoder | null>;
  readonly bodies: BodyBudget;
  readonly modelRoutes: ModelRoutes;
  readonly overload: OverloadControl;
  readonly metrics: RouterMetrics;
  readonly quality: DecisionQuality;
  readonly clock: Clock;
  readonly logger: Logger;
}

/** Bytes of text per token when the prompt was not tokenized: for the in-flight ledger only. */
const bytesPerToken = 4;
/** The most such a guess may be: images in a body are no text. */
const maxGuessedTokens = 32_768;

const noPrompt = { form: "none", why: "not-a-prompt" } as const;

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

/** What is known of a request so far, also when the rest comes to nothing. */
interface Asking {
  model: string | null;
  permit: Permit | null;
}

/** What is sent to a replica. */
interface Outgoing {
  readonly held: HeldBody;
  readonly bytes: Buffer;
  readonly resolved: ResolvedModel;
  readonly decision: Decision;
}

/** Reads, waits for its turn where there is too much, decides, forwards and accounts for one request. Never rejects. */
export function createProxyRoute(deps: ProxyRouteDeps, config: RouterConfig) {
  return async (incoming: Incoming): Promise<void> => {
    const { request, path, requestId } = incoming;
    const startedAt = deps.clock.monotonic();
    const asking: Asking = { model: null, permit: null };
    let body: HeldBody | null = null;
    let decision: Decision | null = null;
    try {
      body = await readBody(request, deps.bodies);
      if (body === null) {
        deps.metrics.finished("client-gone", null);
        return;
      }
      let outgoing = await prepare(incoming, body, asking);
      if (outgoing === null) {
        deps.metrics.finished("client-gone", null);
        return;
      }
      const { resolved } = outgoing;
      decision = outgoing.decision;
      const beforeSendMs = deps.clock.monotonic() - startedAt;
      const sending = send(incoming, outgoing);
      outgoing = null;
      const result = await sending;
      // What was refused was not computed.
      if (result.status === null || result.status >= 400) decision.placement?.failed();
      else if (result.outcome === "completed") deps.quality.answered(decision, result.endpoint.id, cachedTokensIn(result.lastPieces));
      const totalMs = deps.clock.monotonic() - startedAt;
      const firstByteMs = result.firstByteMs === null ? null : beforeSendMs + result.firstByteMs;
      if (firstByteMs !== null) deps.metrics.firstByte(decision.mode, firstByteMs);
      deps.metrics.finished(result.outcome, result.status);
      deps.logger.info(
        {
          requestId,
          model: asking.model,
          ...(resolved.alias === null ? {} : { target: resolved.target }),
          ...(incoming.tenant === null ? {} : { tenant: incoming.tenant }),
          path,
          ...logFieldsOf(decision),
          endpoint: result.endpoint.id,
          status: result.status,
          outcome: result.outcome,
          attempts: result.attempts,
          firstByteMs,
          totalMs,
        },
        "request handled",
      );
    } catch (error) {
      refuse(incoming, { model: asking.model, decision, startedAt }, error);
    } finally {
      body?.release();
      asking.permit?.release();
    }
  };

  /** In a function of its own: what was read is large, and must not live for as long as the answer takes. Null when the client has left. */
  async function prepare(incoming: Incoming, held: HeldBody, asking: Asking): Promise<Outgoing | null> {
    const { request, response, path, requestId } = incoming;
    const asked = read(request, path, held.bytes);
    asking.model = asked.model;
    const session = sessionOf(request, config.sessionHeader);
    const resolved = resolveModel(deps.modelRoutes, asked.model, session ?? requestId);
    const parsed = resolved.alias === null ? asked : { ...asked, model: resolved.target };
    const fleet = deps.fleet.snapshot;
    const route = routeOrThrow(fleet, parsed);
    asking.model ??= route.pool.config.model;
    const bytes = resolved.alias === null ? held.bytes : withModel(held.bytes, request.headers["content-type"] ?? "", resolved);
    asking.permit = await deps.overload.enter(response, route.pool, fleet, {
      priority: resolved.criticality,
      tenant: deps.overload.tenantOf(incoming.tenant, request.headers),
      cost: bytes.length,
    });
    if (asking.permit === null) return null;
    const encoder = deps.encoders.get(route.pool.config.name) ?? null;
    const forwarded = forwardedIds(route.pool.config, parsed, encoder);
    const decision = await deps.decider.decide({
      request: parsed,
      route,
      fleet,
      encoder: forwarded?.encoder ?? encoder,
      session,
      requestId,
    });
    return { held, bytes: forwarded?.body(bytes) ?? bytes, resolved, decision };
  }

  function send({ request, response, requestId }: Incoming, { held, bytes, resolved, decision }: Outgoing): Promise<ForwardResult> {
    if (decision.mode === "precise") {
      deps.logger.info(
        {
          requestId,
          endpoint: decision.endpoint.id,
          matchedBlocks: decision.matchedBlocks,
          blocks: decision.blocks,
          matchingRatio: matchingRatio(decision),
        },
        "prefix-aware routing",
      );
    }
    const promptTokens = decision.promptTokens ?? Math.min(maxGuessedTokens, Math.ceil(bytes.length / bytesPerToken));
    const matchedBy = (endpoint: FleetEndpoint) => decision.ranking.find((ranked) => ranked.endpoint === endpoint)?.matchedTokens ?? 0;
    const { alias, target } = resolved;
    const input: ForwardInput = {
      request,
      response,
      requestId,
      answerModel: resolved.restoreInAnswers && alias !== null && target !== null ? { from: target, to: alias } : null,
      endpoints: decision.ranking.map((ranked) => ranked.endpoint),
      begin: (endpoint) => {
        decision.placement?.sentTo(endpoint);
        const entry = deps.inflight.begin(endpoint.id, promptTokens - matchedBy(endpoint), promptTokens);
        return placing(decision.placement, releasing(held, entry));
      },
      ownHeaders: (endpoint) => ownHeaders(requestId, decision, endpoint, matchedBy(endpoint)),
      onRetry: (why) => deps.metrics.retried(why),
    };
    return forward(deps, config, input, bytes.length === 0 ? null : bytes);
  }

  function ownHeaders(requestId: string, decision: Decision, endpoint: FleetEndpoint, matchedTokens: number): readonly string[] {
    const always = ["x-request-id", requestId, ...(config.decisionHeader ? ["x-kvatlas-decision", decisionHeader(decision)] : [])];
    if (!config.responseHeaders) return always;
    return [
      ...always,
      "x-kvatlas-endpoint",
      endpoint.id,
      "x-kvatlas-matched-tokens",
      String(matchedTokens),
      "x-kvatlas-mode",
      decision.mode,
    ];
  }

  function refuse(
    { response, requestId, path }: Incoming,
    about: { readonly model: string | null; readonly decision: Decision | null; readonly startedAt: number },
    error: unknown,
  ): void {
    const known = error instanceof HttpError;
    const answer = known ? error : new HttpError(500, "the router failed to handle this request; see its log.");
    deps.metrics.finished("refused", answer.status);
    deps.logger[known ? "info" : "error"](
      {
        requestId,
        model: about.model,
        path,
        ...(about.decision === null ? {} : logFieldsOf(about.decision)),
        status: answer.status,
        outcome: "refused",
        ...(known ? { why: answer.message } : { err: error }),
        totalMs: deps.clock.monotonic() - about.startedAt,
      },
      "request handled",
    );
    answerError(response, answer, requestId, path);
  }
}

/** Longer names of sessions are cut: they only have to tell sessions apart. */
const maxSessionChars = 256;

function sessionOf(request: IncomingMessage, header: string): string | null {
  const value = request.headers[header.toLowerCase()];
  const first = Array.isArray(value) ? value[0] : value;
  return first === undefined || first === "" ? null : first.slice(0, maxSessionChars);
}

/** The body is let go of with the first byte of the answer: no other attempt will need it. */
/** An attempt that ends without a first byte has left nothing in the endpoint's cache. */
function placing(placement: Placement | undefined, entry: InflightEntry): InflightEntry {
  let hasBegun = false;
  return {
    firstByte: () => {
      hasBegun = true;
      entry.firstByte();
    },
    produced: entry.produced,
    end: () => {
      if (!hasBegun) placement?.failed();
      entry.end();
    },
  };
}

function releasing(held: HeldBody, entry: InflightEntry): InflightEntry {
  return {
    firstByte: () => {
      held.release();
      entry.firstByte();
    },
    produced: entry.produced,
    end: entry.end,
  };
}

/** Reads the body as far as it is JSON; forms are searched for their model, and anything else goes by load to the only pool. */
function read(request: IncomingMessage, path: string, body: Buffer): ParsedRequest {
  const type = request.headers["content-type"] ?? "";
  if (isPromptPath(path) || (body.length > 0 && /\bjson\b/i.test(type))) return parseRequest(path, body);
  const model = /^multipart\/form-data/i.test(type) ? modelOfForm(body) : null;
  return { model, stream: false, prompt: noPrompt, cacheSalt: null, bodyText: `${path}:${body.length}` };
}

/** @throws HttpError 404 unknown model; 400 no model named where there are several */
export function routeOrThrow(fleet: FleetSnapshot, parsed: ParsedRequest): ModelRoute {
  const route = routeOfModel(fleet, parsed.model);
  if (route !== null) return route;
  if (parsed.model === null && fleet.pools.length > 1) {
    throw new HttpError(400, "the request names no model, and this router serves several: add a model.", { param: "model" });
  }
  if (parsed.model === null) throw new HttpError(503, "no pool is configured.", { retryAfterSeconds: 5 });
  throw new HttpError(404, `The model \`${parsed.model.slice(0, 200)}\` does not exist.`, { param: "model" });
}
