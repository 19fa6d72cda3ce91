import type { UpstreamCredentials } from "../access/access-guard.ts";
import type { AskedRequest } from "../handling/prepare-request.ts";
import type { Decision } from "../routing/decision.ts";
import { destinationKey, destinationMetadata } from "./endpoint-hints.ts";
import type { HeaderMutation, Struct } from "./messages.ts";
import { controlHeadersIn } from "./request-head.ts";
import { setting } from "./responses.ts";

export interface Steering {
  readonly asked: AskedRequest;
  readonly decision: Decision;
  readonly credentials: UpstreamCredentials;
  /** Endpoints named at most: the picked one first, then where to go when it fails. */
  readonly maxEndpoints: number;
  /** Of the body as it goes on; null where its length stays unsaid. */
  readonly bodyBytes: number | null;
}

/** What a gateway has to change in the head of a request, and no more: where to, its length, what a client must not say. */
export function requestMutation(steering: Steering): { readonly mutation: HeaderMutation; readonly metadata: Struct } {
  const { asked, decision, credentials, bodyBytes } = steering;
  const { endpoint } = decision;
  const destination = destinationsOf(decision, steering.maxEndpoints).join(",");
  const set: Record<string, string> = { [destinationKey]: destination };
  const remove = [...controlHeadersIn(asked.headers)];
  if (bodyBytes !== null) set["content-length"] = String(bodyBytes);
  if (asked.headers["x-request-id"] !== asked.requestId) set["x-request-id"] = asked.requestId;
  if (endpoint.ranked) set["x-data-parallel-rank"] = String(endpoint.rank);
  if (credentials.apiKey !== null) set.authorization = `Bearer ${credentials.apiKey}`;
  if (credentials.apiKey !== null || credentials.dropClients) {
    for (const name of ["authorization", "x-api-key"]) if (name in asked.headers && !(name in set)) remove.push(name);
  }
  return {
    mutation: { setHeaders: setting(set), ...(remove.length === 0 ? {} : { removeHeaders: remove }) },
    metadata: destinationMetadata(destination),
  };
}

/** Addresses, best first. A process that is gone takes all of its ranks along: each address once; and another rank would need another header. */
function destinationsOf({ endpoint, ranking }: Decision, maxEndpoints: number): readonly string[] {
  if (endpoint.ranked) return [endpoint.address];
  const addresses = new Set([endpoint.address]);
  for (const ranked of ranking) {
    if (addresses.size >= maxEndpoints) break;
    if (!ranked.endpoint.ranked) addresses.add(ranked.endpoint.address);
  }
  return [...addresses];
}
