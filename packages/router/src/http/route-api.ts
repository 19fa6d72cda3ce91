import type { IncomingMessage, ServerResponse } from "node:http";
import type { Clock } from "@kvatlas/shared/clock";
import type { PromptEncoder } from "@kvatlas/shared/tokenization/prompt-encoder";
import type { FleetSnapshot } from "../fleet/fleet.ts";
import type { LoadReader } from "../fleet/load-reader.ts";
import { routeOrThrow } from "../handling/prepare-request.ts";
import { type ModelRoutes, resolveModel } from "../models/model-routes.ts";
import { parseDryRun } from "../request/parse-request.ts";
import type { Decider } from "../routing/decide.ts";
import { explainDecision } from "../routing/explain.ts";
import { answerJson } from "./answer.ts";
import { type BodyBudget, readBody } from "./read-body.ts";

export interface RouteApiDeps {
  readonly decider: Decider;
  readonly fleet: { readonly snapshot: FleetSnapshot };
  readonly loads: LoadReader;
  readonly encoders: ReadonlyMap<string, PromptEncoder | null>;
  readonly bodies: BodyBudget;
  readonly modelRoutes: ModelRoutes;
  readonly clock: Clock;
}

/**
 * `POST /kvatlas/v1/route`: the decision for a request, without making it. Leaves no trace and uses shared state only, so that every router
 * answers alike.
 */
export async function answerRoute(
  deps: RouteApiDeps,
  request: IncomingMessage,
  response: ServerResponse,
  requestId: string,
): Promise<void> {
  const body = await readBody(request, deps.bodies);
  if (body === null) return;
  try {
    const asked = parseDryRun(body.bytes);
    const parsed = { ...asked, model: resolveModel(deps.modelRoutes, asked.model, requestId).target };
    const fleet = deps.fleet.snapshot;
    const route = routeOrThrow(fleet, parsed);
    const encoder = deps.encoders.get(route.pool.config.name) ?? null;
    const decision = await deps.decider.decide({ request: parsed, route, fleet, encoder, dryRun: true, mayDivide: true, requestId });
    answerJson(response, 200, explainDecision(decision, parsed.model ?? route.pool.config.model), { "x-request-id": requestId });
  } finally {
    body.release();
  }
}

/** `GET /kvatlas/v1/endpoints`: the fleet as this router sees it. */
export async function answerEndpoints(deps: RouteApiDeps, response: ServerResponse): Promise<void> {
  const fleet = deps.fleet.snapshot;
  const reading = await deps.loads.read(fleet.routers).catch(() => deps.loads.last);
  const endpoints = fleet.pools.flatMap((pool) =>
    pool.endpoints.map((endpoint) => ({
      endpoint: endpoint.id,
      address: endpoint.address,
      rank: endpoint.rank,
      pool: endpoint.pool,
      model: pool.config.model,
      role: endpoint.role,
      ready: endpoint.ready,
      status: endpoint.status,
      sleeping: deps.loads.isSleeping(reading, endpoint.id),
      scope: endpoint.scope,
      loras: Object.keys(endpoint.loras),
      heartbeatAgeMs: endpoint.heartbeat === null ? null : Math.max(0, deps.clock.now() - endpoint.heartbeat),
      load: deps.loads.of(reading, endpoint.id, null),
    })),
  );
  answerJson(response, 200, { endpoints, routers: fleet.routers, registryReachable: fleet.registryReachable });
}
