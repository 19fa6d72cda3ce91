import type { Logger } from "@kvatlas/shared/logger";
import { within } from "../deadline.ts";
import type { FleetEndpoint } from "../fleet/fleet.ts";
import type { InflightTracker } from "../fleet/inflight-tracker.ts";
import type { FleetLoad, LoadReader } from "../fleet/load-reader.ts";
import type { OutlierEjection } from "../fleet/outlier-ejection.ts";
import { HttpError } from "../request/openai-error.ts";
import type { Candidate, Ranked } from "./candidate.ts";
import { eligibleEndpoints, whyNone } from "./eligible.ts";
import type { Policy } from "./policies/policy.ts";
import type { RequestWork } from "./request-work.ts";
import type { Residency } from "./residency.ts";

export interface ContestDeps {
  readonly loads: LoadReader;
  readonly inflight: Pick<InflightTracker, "local">;
  readonly ejection: Pick<OutlierEjection, "isEjected">;
  /** Of pools whose mode is not `off`. */
  readonly policy: Policy;
  readonly logger: Logger;
}

export interface ContestOptions {
  readonly routerId: string;
  readonly lookupTimeoutMs: number;
}

/** Who can take a request, and in which order: the part of a decision that all modes share. */
export class Contest {
  readonly #deps: ContestDeps;
  readonly #options: ContestOptions;

  constructor(deps: ContestDeps, options: ContestOptions) {
    this.#deps = deps;
    this.#options = options;
  }

  /** Never rejects: the last good reading stands in. */
  async readLoad({ input, isDryRun }: RequestWork): Promise<FleetLoad> {
    const { loads, logger } = this.#deps;
    const { routers } = input.fleet;
    const asked = isDryRun ? routers : routers.filter((router) => router !== this.#options.routerId);
    try {
      return await within(this.#options.lookupTimeoutMs, "reading the load", async () => loads.read(asked));
    } catch (error) {
      logger.debug({ requestId: input.requestId, err: error }, "load cannot be read: the last reading is used");
      return loads.last;
    }
  }

  /** @throws HttpError 503 nobody can take requests */
  candidates({ input, isDryRun }: RequestWork, load: FleetLoad, residency: Residency): readonly Candidate[] {
    const { loads, inflight, ejection } = this.#deps;
    const isSleeping = (endpoint: FleetEndpoint) => loads.isSleeping(load, endpoint.id);
    const isEjected = (endpoint: FleetEndpoint) => !isDryRun && ejection.isEjected(endpoint.id);
    const endpoints = eligibleEndpoints({ endpoints: input.route.endpoints, isSleeping, isEjected });
    if (endpoints.length === 0) throw new HttpError(503, whyNone(input.route.endpoints), { retryAfterSeconds: 1 });
    return endpoints.map((endpoint) => ({
      endpoint,
      matchedTokens: residency.matches.get(endpoint.id)?.tokens ?? 0,
      byMedium: residency.matches.get(endpoint.id)?.byMedium ?? {},
      load: loads.of(load, endpoint.id, isDryRun ? null : inflight.local(endpoint.id)),
    }));
  }

  /** @param promptTokens - 0 leaves load alone */
  rank({ input }: RequestWork, candidates: readonly Candidate[], promptTokens: number, tieKey: string): readonly Ranked[] {
    return this.#deps.policy.rank(candidates, { promptTokens, tieKey, lora: input.route.lora, session: input.session ?? null });
  }
}
