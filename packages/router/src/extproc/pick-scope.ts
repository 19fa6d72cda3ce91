import type { ModelRoute } from "../fleet/fleet.ts";
import { HttpError } from "../request/openai-error.ts";
import { isDestination, subsetFilter } from "./endpoint-hints.ts";

/**
 * Narrows a route to what the gateway can be told: endpoints with an IP address, of those the subset that it has asked for.
 *
 * @param subset - null: no subset was asked for; empty: nobody may be picked
 */
export function eligibleFor(subset: readonly string[] | null): (route: ModelRoute) => ModelRoute {
  return (route) => {
    const addressed = route.endpoints.filter(({ address }) => isDestination(address));
    if (addressed.length === 0 && route.endpoints.length > 0) {
      throw new HttpError(503, "the replicas of this model are known by host name, and gateways need IP addresses.", {
        retryAfterSeconds: 5,
      });
    }
    if (subset === null) return { ...route, endpoints: addressed };
    const isIn = subsetFilter(subset);
    const endpoints = addressed.filter(({ address }) => isIn(address));
    if (endpoints.length === 0) {
      throw new HttpError(503, "no replica of this model is among those that the gateway asked for.", { retryAfterSeconds: 1 });
    }
    return { ...route, endpoints };
  };
}
