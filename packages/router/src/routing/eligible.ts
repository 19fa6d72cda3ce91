import { answersRequests } from "@kvatlas/shared/registry/engine-role";
import type { FleetEndpoint } from "../fleet/fleet.ts";
import { isAwake, isReady, isTrusted } from "./filters.ts";

export interface EligibilityInput {
  readonly endpoints: readonly FleetEndpoint[];
  readonly isSleeping: (endpoint: FleetEndpoint) => boolean;
  /** This router's own bad experience; a preference, never the reason for having no endpoint. */
  readonly isEjected: (endpoint: FleetEndpoint) => boolean;
}

/**
 * Endpoints that may take a request: ready, awake and, where there is a choice, not ejected.
 * When not one counts as ready, all that are awake may: it is then as likely that the observer is wrong as that the whole fleet is down, and a
 * replica that really is down refuses the connection.
 */
export function eligibleEndpoints(input: EligibilityInput): readonly FleetEndpoint[] {
  const awake = input.endpoints.filter((endpoint) => isAwake(endpoint, input.isSleeping));
  const ready = awake.filter(isReady);
  const fit = ready.length > 0 ? ready : awake;
  const calm = fit.filter((endpoint) => isTrusted(endpoint, input.isEjected));
  return calm.length > 0 ? calm : fit;
}

/** Why there is no endpoint, as a sentence. */
export function whyNone(endpoints: readonly FleetEndpoint[]): string {
  if (endpoints.length === 0) return "no replica is known for this model.";
  if (!endpoints.some(({ role }) => answersRequests(role)))
    return "all replicas of this model are helpers (prefill or encode): none of them answers.";
  return endpoints.length === 1
    ? "the only replica of this model is asleep."
    : `all ${endpoints.length} replicas of this model are asleep.`;
}
