import type { EndpointId } from "../types.ts";
import type { EndpointMeta, Inflight } from "./endpoint-registry.ts";

/** What an endpoint's meta says where its owner has said nothing yet. */
export const emptyMeta: EndpointMeta = {
  address: "",
  pool: "",
  model: "",
  rank: 0,
  scope: null,
  extrasForm: null,
  lookaheadTokens: 0,
  groups: [],
  loras: {},
  ready: false,
  processStartSeconds: null,
  lastBatch: null,
  owedFrom: null,
  reportsReuse: false,
  mediaByAdapter: false,
  findings: {},
};

/** Instances that have been silent for this long are dropped from the list. */
export const FORGET_INSTANCES_MS = 3_600_000;

/** In-flight work of several routers as one sum per endpoint. */
export function sumInflight(routers: readonly ReadonlyMap<EndpointId, Inflight>[]): ReadonlyMap<EndpointId, Inflight> {
  const sum = new Map<EndpointId, Inflight>();
  for (const router of routers) {
    for (const [endpoint, more] of router) {
      const before = sum.get(endpoint);
      sum.set(endpoint, {
        requests: more.requests + (before?.requests ?? 0),
        prefillTokens: more.prefillTokens + (before?.prefillTokens ?? 0),
        decodeTokens: more.decodeTokens + (before?.decodeTokens ?? 0),
      });
    }
  }
  return sum;
}
