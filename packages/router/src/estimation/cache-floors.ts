import type { EndpointId } from "@kvatlas/shared/types";
import type { FleetEndpoint, FleetSnapshot } from "../fleet/fleet.ts";

/**
 * The moment from which on an endpoint can hold what was sent to it: the start of its process. Where the engine does not tell that, the moment at which
 * this router saw it become ready again, or begin a new incarnation.
 */
export class CacheFloors {
  readonly #seen = new Map<EndpointId, { ready: boolean; incarnation: number; floorMs: number }>();

  /** ms since the epoch; 0 when nothing is known. */
  of(endpoint: FleetEndpoint): number {
    return endpoint.processStartMs ?? this.#seen.get(endpoint.id)?.floorMs ?? 0;
  }

  observe(fleet: FleetSnapshot, nowMs: number): void {
    const present = new Set<EndpointId>();
    for (const { endpoints } of fleet.pools) {
      for (const { id, ready, incarnation } of endpoints) {
        present.add(id);
        const before = this.#seen.get(id);
        const isAnother = before !== undefined && before.incarnation > 0 && incarnation !== before.incarnation;
        const isBack = before !== undefined && !before.ready && ready;
        this.#seen.set(id, { ready, incarnation, floorMs: isAnother || isBack ? nowMs : (before?.floorMs ?? 0) });
      }
    }
    for (const id of this.#seen.keys()) if (!present.has(id)) this.#seen.delete(id);
  }
}
