import type { FleetEndpoint } from "../fleet/fleet.ts";
import type { Decision } from "../routing/decision.ts";
import { logFieldsOf } from "../routing/explain.ts";
import type { AskedRequest, PreparedRequest } from "./prepare-request.ts";

export interface HandledRequest {
  readonly asked: Pick<AskedRequest, "requestId" | "tenant" | "path">;
  /** As the client named it, or the pool's. */
  readonly model: string | null;
  readonly resolved: PreparedRequest["resolved"];
  readonly decision: Decision;
  /** The endpoint that the request has been sent to last. */
  readonly endpoint: FleetEndpoint;
}

/**
 * What the line `request handled` tells of a request that was sent on, however it came in. The first names are those of the reference endpoint picker
 * (Gateway API Inference Extension): what searches its log finds the same here.
 */
export function handledFields({ asked, model, resolved, decision, endpoint }: HandledRequest): Readonly<Record<string, unknown>> {
  return {
    "x-request-id": asked.requestId,
    model,
    resolvedTargetModel: resolved.target ?? model,
    criticality: resolved.criticality,
    ...(asked.tenant === null ? {} : { tenant: asked.tenant }),
    path: asked.path,
    ...logFieldsOf(decision),
    endpoint: endpoint.id,
    ...(endpoint.pod === undefined ? {} : { pod: endpoint.pod.name, labels: endpoint.pod.labels }),
  };
}
