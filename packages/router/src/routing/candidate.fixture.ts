import type { EndpointId } from "@kvatlas/shared/types";
import type { FleetEndpoint } from "../fleet/fleet.ts";
import type { Candidate, CandidateLoad } from "./candidate.ts";

export function endpointOf(id: string, change: Partial<FleetEndpoint> = {}): FleetEndpoint {
  return {
    id: id as EndpointId,
    address: id,
    rank: 0,
    ranked: false,
    pool: "pool",
    role: null,
    configured: true,
    ready: true,
    status: "ready",
    scope: null,
    extrasForm: null,
    lookaheadTokens: 0,
    mediaByAdapter: false,
    groups: [],
    loras: {},
    heartbeat: null,
    incarnation: 0,
    processStartMs: null,
    ...change,
  };
}

export function candidateOf(id: string, gpuTokens = 0, load: Partial<CandidateLoad> = {}): Candidate {
  return {
    endpoint: endpointOf(id),
    matchedTokens: gpuTokens,
    byMedium: gpuTokens === 0 ? {} : { gpu: gpuTokens },
    load: {
      waiting: 0,
      running: 0,
      kvUsage: null,
      inflightRequests: 0,
      prefillTokens: 0,
      decodeTokens: 0,
      runningLoras: [],
      waitingLoras: [],
      maxLoras: null,
      ...load,
    },
  };
}
