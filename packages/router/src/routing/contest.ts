import type { Logger } from "@kvatlas/shared/logger";
import { answersRequests, prefillsForOthers } from "@kvatlas/shared/registry/engine-role";
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

/** Age of a reading of the load that is not read again: replicas are asked, and routers tell what they have under way, less often than that. */
const maxLoadAgeMs = 5;

/** Who can take a request, and in which order: the part of a decision that all modes share. */
export class Contest {
  readonly #deps: ContestDeps;
  readonly #options: ContestOptions;

  constructor(deps: ContestDeps, options: ContestOptions) {
    this.#deps = deps;
    this.#options = options;
  }

  /** Never rejects: the last good reading stands in. Dry runs have a reading of their own. */
  async readLoad({ input, isDryRun }: RequestWork, maxAgeMs = maxLoadAgeMs): Promise<FleetLoad> {
    const { loads, logger } = this.#deps;
    const { routers } = input.fleet;
    const asked = isDryRun ? routers : routers.filter((router) => router !== this.#options.routerId);
    const recent = isDryRun ? null : loads.recent(asked, maxAgeMs);
    if (recent !== null) return recent;
    try {
      return await within(this.#options.lookupTimeoutMs, "reading the load", async () => loads.read(asked));
    } catch (error) {
      logger.debug({ "x-request-id": input.requestId, err: error }, "load cannot be read: the last reading is used");
      return loads.last;
    }
  }

  /** @throws HttpError 503 nobody can take requests */
  candidates(work: RequestWork, load: FleetLoad, residency: Residency): readonly Candidate[] {
    const { endpoints } = work.input.route;
    work.load = load;
    const answering = endpoints.filter(({ role }) => answersRequests(role));
    const candidates = this.#among(answering, work, load, residency);
    if (candidates.length === 0) throw new HttpError(503, whyNone(endpoints), { retryAfterSeconds: 1 });
    return candidates;
  }

  /** Who can compute a prompt for another endpoint, as far as the candidates for the answer have been asked for before; may be empty. */
  prefillCandidates(work: RequestWork, residency: Residency): readonly Candidate[] {
    const endpoints = work.input.route.endpoints.filter(({ role }) => prefillsForOthers(role));
    return this.#among(endpoints, work, work.load ?? this.#deps.loads.last, residency);
  }

  #among(
    among: readonly FleetEndpoint[],
    { isDryRun }: Pick<RequestWork, "isDryRun">,
    load: FleetLoad,
    residency: Residency,
  ): readonly Candidate[] {
    const { loads, inflight, ejection } = this.#deps;
    const isSleeping = (endpoint: FleetEndpoint) => loads.isSleeping(load, endpoint.id);
    const isEjected = (endpoint: FleetEndpoint) => !isDryRun && ejection.isEjected(endpoint.id);
    const endpoints = eligibleEndpoints({ endpoints: among, isSleeping, isEjected });
    return endpoints.map((endpoint) => ({
      endpoint,
      matchedTokens: residency.matches.get(endpoint.id)?.tokens ?? 0,
      byMedium: residency.matches.get(endpoint.id)?.byMedium ?? {},
      load: loads.of(load, endpoint.id, isDryRun ? null : inflight.local(endpoint.id)),
    }));
  }

  /** @param promptTokens - 0 leaves load alone */
  rank(
    { input }: RequestWork,
    candidates: readonly Candidate[],
    promptTokens: number,
    tieKey: string,
    policy: Policy = this.#deps.policy,
  ): readonly Ranked[] {
    return policy.rank(candidates, { promptTokens, tieKey, lora: input.route.lora, session: input.session ?? null });
  }
}
