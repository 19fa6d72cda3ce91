import type { RouterConfig } from "@kvatlas/shared/config/schema";
import type { FleetEndpoint } from "../fleet/fleet.ts";
import type { Decision } from "../routing/decision.ts";
import { decisionHeader } from "../routing/explain.ts";
import { matchedBy } from "./sent-request.ts";

/**
 * What the router adds to an answer, as a flat list of names and values.
 *
 * @param prefill - the endpoint that has computed the prompt, where it is another one
 */
export function ownHeaders(
  config: Pick<RouterConfig, "decisionHeader" | "responseHeaders">,
  requestId: string,
  decision: Decision,
  endpoint: FleetEndpoint,
  prefill: FleetEndpoint | null = null,
): readonly string[] {
  const always = ["x-request-id", requestId, ...(config.decisionHeader ? ["x-kvatlas-decision", decisionHeader(decision)] : [])];
  if (!config.responseHeaders) return always;
  return [
    ...always,
    "x-kvatlas-endpoint",
    endpoint.id,
    "x-kvatlas-matched-tokens",
    String(matchedBy(decision, endpoint)),
    "x-kvatlas-mode",
    decision.mode,
    ...(prefill === null ? [] : ["x-kvatlas-prefill-endpoint", prefill.id]),
  ];
}
