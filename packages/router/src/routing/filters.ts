import type { FleetEndpoint } from "../fleet/fleet.ts";

/*
 * What can keep a request from an endpoint, each by itself. Which of them are conditions and which only preferences is said in `eligible.ts` and
 * `fleet.ts`.
 */

/** `model`: the endpoints of the pool that serves the model. */
export function servesModel(pool: { readonly config: { readonly model: string } }, model: string): boolean {
  return pool.config.model === model;
}

/** `lora`: the endpoint has loaded the adapter. */
export function hasAdapter(endpoint: FleetEndpoint, adapter: string): boolean {
  return Object.hasOwn(endpoint.loras, adapter);
}

/** `ready`: as far as is known, it answers requests. */
export function isReady(endpoint: FleetEndpoint): boolean {
  return endpoint.ready;
}

/** `awake`: the engine has not been put to sleep, which would make the request wait for somebody to wake it. */
export function isAwake(endpoint: FleetEndpoint, isSleeping: (endpoint: FleetEndpoint) => boolean): boolean {
  return !isSleeping(endpoint);
}

/** `not ejected`: it has not just failed this router. */
export function isTrusted(endpoint: FleetEndpoint, isEjected: (endpoint: FleetEndpoint) => boolean): boolean {
  return !isEjected(endpoint);
}
