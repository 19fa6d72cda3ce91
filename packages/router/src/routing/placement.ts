import type { Timers } from "@kvatlas/shared/clock";
import type { FleetEndpoint } from "../fleet/fleet.ts";

/**
 * Remembers that a request goes to an endpoint, and returns the way to take it back.
 *
 * @param isAgain - it has been waiting there for a while: what the endpoint held then may be gone, and will be computed again
 */
export type Remember = (endpoint: FleetEndpoint, isAgain: boolean) => () => void;

export interface Renewal {
  readonly timers: Timers;
  /** From the moment a request is sent: what an endpoint held may be gone soon after. */
  readonly firstMs: number;
  /** Less than what is remembered lasts. */
  readonly intervalMs: number;
}

/**
 * Keeps what is remembered of where a request went true to what becomes of it. It lasts for a while from when it was last said: a request that waits in an
 * engine's queue has computed nothing yet and is going to, so it is said again until the answer begins.
 */
export class Placement {
  readonly #remember: Remember;
  readonly #renewal: Renewal | null;
  #at: FleetEndpoint | null = null;
  #takeBack: () => void = () => {};
  #stopRenewing: (() => void) | null = null;

  /** @param renewal - null: what is remembered lasts long enough by itself */
  constructor(remember: Remember, renewal: Renewal | null = null) {
    this.#remember = remember;
    this.#renewal = renewal;
  }

  /** The request goes there; what was remembered of another endpoint is taken back. */
  sentTo(endpoint: FleetEndpoint): void {
    if (this.#at?.id === endpoint.id) return;
    this.failed();
    this.#at = endpoint;
    this.#takeBack = this.#remember(endpoint, false);
  }

  /** The request is under way to where it was sent, until `answered` or `failed`: one of these follows. */
  waits(): void {
    if (this.#renewal === null || this.#stopRenewing !== null) return;
    const { timers, firstMs, intervalMs } = this.#renewal;
    const after = (delayMs: number): void => {
      this.#stopRenewing = timers.after(delayMs, () => {
        this.#renew();
        after(intervalMs);
      });
    };
    after(firstMs);
  }

  /** The answer has begun. */
  answered(): void {
    if (this.#stopRenewing === null) return;
    this.#stop();
    this.#renew();
  }

  /** The request was not served where it went: what it would have left in the cache is not there. */
  failed(): void {
    this.#stop();
    this.#takeBack();
    this.#takeBack = () => {};
    this.#at = null;
  }

  #renew(): void {
    if (this.#at !== null) this.#takeBack = this.#remember(this.#at, true);
  }

  #stop(): void {
    this.#stopRenewing?.();
    this.#stopRenewing = null;
  }
}
