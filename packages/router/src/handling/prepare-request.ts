import type { IncomingHttpHeaders } from "node:http";
import type { RouterConfig } from "@kvatlas/shared/config/schema";
import type { Logger } from "@kvatlas/shared/logger";
import type { PromptEncoder } from "@kvatlas/shared/tokenization/prompt-encoder";
import { type FleetSnapshot, type ModelRoute, routeOfModel } from "../fleet/fleet.ts";
import { isPromptPath } from "../http/paths.ts";
import { type ModelRoutes, type ResolvedModel, resolveModel } from "../models/model-routes.ts";
import { criticalityByObjective } from "../models/objective.ts";
import { withModel } from "../models/with-model.ts";
import type { Permit } from "../overload/admission.ts";
import type { LeavingClient, OverloadControl } from "../overload/overload-control.ts";
import { modelOfForm } from "../request/model-of-body.ts";
import { HttpError } from "../request/openai-error.ts";
import { type ParsedRequest, parseRequest } from "../request/parse-request.ts";
import type { Decider } from "../routing/decide.ts";
import type { Decision } from "../routing/decision.ts";
import { matchingRatio } from "../routing/explain.ts";
import type { DecideInput } from "../routing/request-work.ts";
import { forwardedIds } from "../tokenization/forwarded-ids.ts";

export interface PrepareDeps {
  readonly decider: Pick<Decider, "decide">;
  readonly fleet: { readonly snapshot: FleetSnapshot };
  readonly encoders: ReadonlyMap<string, PromptEncoder | null>;
  readonly modelRoutes: ModelRoutes;
  readonly overload: OverloadControl;
  readonly logger: Logger;
}

/** A request as it came in, whichever way; its body is given apart. */
export interface AskedRequest {
  /** Without the query. */
  readonly path: string;
  /** Names in lower case. */
  readonly headers: IncomingHttpHeaders;
  readonly requestId: string;
  /** Whose API key it came with; null where none is asked for. */
  readonly tenant: string | null;
}

/** What is known of a request so far, also when the rest comes to nothing. */
export interface Progress {
  model: string | null;
  /** To be released by whoever asked, once the request is over. */
  permit: Permit | null;
}

/** What is sent to a replica. */
export interface PreparedRequest {
  readonly bytes: Buffer;
  readonly resolved: ResolvedModel;
  readonly decision: Decision;
}

export interface PrepareOptions {
  /** The body is not to be had: load decides, for the model that is named here. @defaultValue the body is what was given */
  readonly withoutBody?: { readonly model: string | null };
  /** Endpoints that may be picked, of those that serve the model. @defaultValue all of them */
  readonly eligible?: (route: ModelRoute) => ModelRoute;
  /** How a decision is made. @defaultValue by the decider, which keeps its own deadlines */
  readonly decide?: (input: DecideInput) => Promise<Decision>;
}

export type PrepareRequest = (
  asked: AskedRequest,
  body: Buffer,
  client: LeavingClient,
  progress: Progress,
  options?: PrepareOptions,
) => Promise<PreparedRequest | null>;

const noPrompt = { form: "none", why: "not-a-prompt" } as const;

/**
 * From a body to a decision: reads it, follows the model's name, waits for its turn where there is too much, and decides. Resolves with null when the
 * client has left; rejects with HttpError. What was read is large, and lives no longer than the call.
 */
export function createPrepareRequest(deps: PrepareDeps, config: Pick<RouterConfig, "sessionHeader">): PrepareRequest {
  return async (asked, body, client, progress, options = {}) => {
    const { headers, requestId } = asked;
    const read = options.withoutBody === undefined ? readRequest(asked, body) : unreadRequest(asked, options.withoutBody.model, body);
    progress.model = read.model;
    const session = sessionOf(headers, config.sessionHeader);
    const named = resolveModel(deps.modelRoutes, read.model, session ?? requestId);
    const request = named.alias === null ? read : { ...read, model: named.target };
    const fleet = deps.fleet.snapshot;
    const found = routeOrThrow(fleet, request);
    const route = options.eligible?.(found) ?? found;
    const criticality = criticalityByObjective(headers, route.pool.discovered) ?? named.criticality;
    const resolved = criticality === named.criticality ? named : { ...named, criticality };
    progress.model ??= route.pool.config.model;
    const bytes = resolved.alias === null ? body : withModel(body, headers["content-type"] ?? "", resolved);
    progress.permit = await deps.overload.enter(client, route.pool, fleet, {
      priority: criticality,
      tenant: deps.overload.tenantOf(asked.tenant, headers),
      cost: bytes.length,
    });
    if (progress.permit === null) return null;
    const encoder = deps.encoders.get(route.pool.config.name) ?? null;
    const forwarded = forwardedIds(route.pool.config, request, encoder);
    const input = { request, route, fleet, encoder: forwarded?.encoder ?? encoder, session, requestId };
    const decision = await (options.decide?.(input) ?? deps.decider.decide({ ...input, mayDivide: true }));
    if (decision.mode === "precise") {
      const { endpoint, matchedBlocks, blocks } = decision;
      deps.logger.info(
        { "x-request-id": requestId, endpoint: endpoint.id, matchedBlocks, blocks, matchingRatio: matchingRatio(decision) },
        "prefix-aware routing",
      );
    }
    return { bytes: forwarded?.body(bytes) ?? bytes, resolved, decision };
  };
}

/** Longer names of sessions are cut: they only have to tell sessions apart. */
const maxSessionChars = 256;

function sessionOf(headers: IncomingHttpHeaders, name: string): string | null {
  const value = headers[name.toLowerCase()];
  const first = Array.isArray(value) ? value[0] : value;
  return first === undefined || first === "" ? null : first.slice(0, maxSessionChars);
}

/** Reads the body as far as it is JSON; forms are searched for their model, and anything else goes by load to the only pool. */
function readRequest({ path, headers }: AskedRequest, body: Buffer): ParsedRequest {
  const type = headers["content-type"] ?? "";
  if (isPromptPath(path) || (body.length > 0 && /\bjson\b/i.test(type))) return parseRequest(path, body);
  const model = /^multipart\/form-data/i.test(type) ? modelOfForm(body) : null;
  return unreadRequest({ path }, model, body);
}

function unreadRequest({ path }: Pick<AskedRequest, "path">, model: string | null, body: Buffer): ParsedRequest {
  return { model, stream: false, prompt: noPrompt, cacheSalt: null, bodyText: `${path}:${body.length}` };
}

/** @throws HttpError 404 unknown model; 400 no model named where there are several */
export function routeOrThrow(fleet: FleetSnapshot, parsed: Pick<ParsedRequest, "model">): ModelRoute {
  const route = routeOfModel(fleet, parsed.model);
  if (route !== null) return route;
  if (parsed.model === null && fleet.pools.length > 1) {
    throw new HttpError(400, "the request names no model, and this router serves several: add a model.", { param: "model" });
  }
  if (parsed.model === null) throw new HttpError(503, "no pool is configured.", { retryAfterSeconds: 5 });
  throw new HttpError(404, `The model \`${parsed.model.slice(0, 200)}\` does not exist.`, { param: "model" });
}
