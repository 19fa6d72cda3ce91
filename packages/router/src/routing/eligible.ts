import type { FleetEndpoint } from "../fleet/fleet.ts";

export interface EligibilityInput {
  readonly endpoints: readonly FleetEndpoint[];
  readonly isSleeping: (endpoint: FleetEndpoint) => boolean;
  /** This router's own bad experience; a preference, never the reason for having no endpoint. */
  readonly isEjected: (endpoint: FleetEndpoint) => boolean;
}

/** Endpoints that may take a request: ready, awake and, where there is a choice, not ejected. */
export function eligibleEndpoints(input: EligibilityInput): readonly FleetEndpoint[] {
  const fit = input.endpoints.filter((endpoint) => endpoint.ready && !input.isSleeping(endpoint));
  const calm = fit.filter((endpoint) => !input.isEjected(endpoint));
  return calm.length > 0 ? calm : fit;
}

/** Why there is no endpoint, as a sentence. */
export function whyNone(endpoints: readonly FleetEndpoint[], isSleeping: (endpoint: FleetEndpoint) => boolean): string {
  if (endpoints.length === 0) return "no replica is known for this model.";
  const count = (test: (endpoint: FleetEndpoint) => boolean) => endpoints.filter(test).length;
  const parts = [
    [count((endpoint) => endpoint.ready && isSleeping(endpoint)), "asleep"],
    [count((endpoint) => !endpoint.ready && endpoint.status === "not-ready"), "not ready"],
    [count((endpoint) => !endpoint.ready && endpoint.status === "silent"), "silent"],
  ] as const;
  const said = parts.filter(([n]) => n > 0).map(([n, what]) => `${n} ${what}`);
  return `none of the ${endpoints.length} replicas of this model can take requests: ${said.join(", ")}.`;
}
