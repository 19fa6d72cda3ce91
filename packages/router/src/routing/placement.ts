import type { FleetEndpoint } from "../fleet/fleet.ts";

/** Remembers that a request goes to an endpoint, and returns the way to take it back. */
export type Remember = (endpoint: FleetEndpoint) => () => void;

/** Keeps what is remembered of where a request went true to what becomes of it. */
export class Placement {
  readonly #remember: Remember;
  #at: FleetEndpoint | null = null;
  #takeBack: () => void = () => {};

  constructor(remember: Remember) {
    this.#remember = remember;
  }

  /** The request goes there; what was remembered of another endpoint is taken back. */
  sentTo(endpoint: FleetEndpoint): void {
    if (this.#at?.id === endpoint.id) return;
    this.failed();
    this.#at = endpoint;
    this.#takeBack = this.#remember(endpoint);
  }

  /** The request was not served where it went: what it would have left in the cache is not there. */
  failed(): void {
    this.#takeBack();
    this.#takeBack = () => {};
    this.#at = null;
  }
}
