import type { Clock } from "@kvatlas/shared/clock";
import type { EndpointLoad, EndpointRegistry, Inflight } from "@kvatlas/shared/registry/endpoint-registry";
import type { EndpointId } from "@kvatlas/shared/types";
import type { CandidateLoad } from "../routing/candidate.ts";

export interface FleetLoad {
  readonly loads: ReadonlyMap<EndpointId, EndpointLoad>;
  /** Of the routers that were asked for. */
  readonly inflight: ReadonlyMap<EndpointId, Inflight>;
}

export interface LoadReaderOptions {
  /** Engine figures older than this are not used. @defaultValue 5000 */
  readonly staleMs?: number;
}

/** A reading under way is shared for this long after it began: decisions of one burst need not each have their own. */
const sharedMs = 2;

const none: FleetLoad = { loads: new Map(), inflight: new Map() };

/**
 * Reads the shared load. Decisions of one burst share a reading. The last good reading stands in when the registry cannot be read.
 */
export class LoadReader {
  readonly #registry: Pick<EndpointRegistry, "readLoad">;
  readonly #clock: Clock;
  readonly #staleMs: number;
  #underWay: { readonly name: string; readonly since: number; readonly reading: Promise<FleetLoad> } | null = null;
  #last: FleetLoad = none;
  #lastAsked: { readonly name: string; readonly since: number } | null = null;

  constructor(registry: Pick<EndpointRegistry, "readLoad">, clock: Clock, options: LoadReaderOptions = {}) {
    this.#registry = registry;
    this.#clock = clock;
    this.#staleMs = options.staleMs ?? 5_000;
  }

  /** The last good reading. */
  get last(): FleetLoad {
    return this.#last;
  }

  /** The last good reading, if it was of these routers and began no longer ago than that. */
  recent(routerIds: readonly string[], maxAgeMs: number): FleetLoad | null {
    const asked = this.#lastAsked;
    if (asked === null || this.#clock.monotonic() - asked.since > maxAgeMs || asked.name !== routerIds.join(" ")) return null;
    return this.#last;
  }

  /** Rejects as `readLoad` does. */
  read(routerIds: readonly string[]): Promise<FleetLoad> {
    const name = routerIds.join(" ");
    const now = this.#clock.monotonic();
    const shared = this.#underWay;
    if (shared !== null && shared.name === name && now - shared.since <= sharedMs) return shared.reading;
    const reading = this.#registry.readLoad(routerIds).then((load) => {
      if (this.#underWay?.reading === reading) this.#underWay = null;
      this.#last = load;
      this.#lastAsked = { name, since: now };
      return load;
    });
    this.#underWay = { name, since: now, reading };
    return reading;
  }

  /** Load of one endpoint out of a reading, with this router's own work on top. */
  of(reading: FleetLoad, endpoint: EndpointId, own: Inflight | null): CandidateLoad {
    const engine = this.#fresh(reading, endpoint);
    const others = reading.inflight.get(endpoint);
    return {
      waiting: engine?.waiting ?? 0,
      running: engine?.running ?? 0,
      kvUsage: engine?.kvUsage ?? null,
      inflightRequests: (others?.requests ?? 0) + (own?.requests ?? 0),
      prefillTokens: (others?.prefillTokens ?? 0) + (own?.prefillTokens ?? 0),
      decodeTokens: (others?.decodeTokens ?? 0) + (own?.decodeTokens ?? 0),
      runningLoras: engine?.runningLoras ?? [],
      waitingLoras: engine?.waitingLoras ?? [],
      maxLoras: engine?.maxLoras ?? null,
    };
  }

  isSleeping(reading: FleetLoad, endpoint: EndpointId): boolean {
    return this.#fresh(reading, endpoint)?.sleeping === true;
  }

  #fresh(reading: FleetLoad, endpoint: EndpointId): EndpointLoad | null {
    const load = reading.loads.get(endpoint);
    return load !== undefined && this.#clock.now() - load.at <= this.#staleMs ? load : null;
  }
}
