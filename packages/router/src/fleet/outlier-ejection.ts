import type { Clock } from "@kvatlas/shared/clock";
import type { EndpointId } from "@kvatlas/shared/types";

export interface OutlierEjectionOptions {
  /** After the first failure in a row; doubles with each further one. @defaultValue 1000 */
  readonly baseMs?: number;
  /** @defaultValue 10_000 */
  readonly maxMs?: number;
}

/**
 * Keeps endpoints that do not answer out of the way for a while: this router's own experience, ahead of the ingesters' health checks.
 * Bounded by the endpoints it is told of; `retain` forgets those that are gone.
 */
export class OutlierEjection {
  readonly #clock: Clock;
  readonly #baseMs: number;
  readonly #maxMs: number;
  readonly #failures = new Map<EndpointId, { inARow: number; until: number }>();

  constructor(clock: Clock, options: OutlierEjectionOptions = {}) {
    this.#clock = clock;
    this.#baseMs = options.baseMs ?? 1_000;
    this.#maxMs = options.maxMs ?? 10_000;
  }

  /** No connection, or none that lived until the first byte. */
  failed(endpoint: EndpointId): void {
    const inARow = (this.#failures.get(endpoint)?.inARow ?? 0) + 1;
    const forMs = Math.min(this.#maxMs, this.#baseMs * 2 ** Math.min(inARow - 1, 20));
    this.#failures.set(endpoint, { inARow, until: this.#clock.monotonic() + forMs });
  }

  succeeded(endpoint: EndpointId): void {
    if (this.#failures.size > 0) this.#failures.delete(endpoint);
  }

  isEjected(endpoint: EndpointId): boolean {
    const failure = this.#failures.get(endpoint);
    return failure !== undefined && this.#clock.monotonic() < failure.until;
  }

  retain(endpoints: ReadonlySet<EndpointId>): void {
    for (const endpoint of this.#failures.keys()) {
      if (!endpoints.has(endpoint)) this.#failures.delete(endpoint);
    }
  }
}
