import type { Logger } from "@kvatlas/shared/logger";
import type { EstimateConfig, PrefixEstimator } from "../../estimation/prefix-estimator.ts";
import type { Contest } from "../contest.ts";
import type { GivenUp, RequestWork } from "../request-work.ts";
import { type Mode, type Ruling, reasonOf } from "./mode.ts";

export interface EstimatedModeDeps {
  readonly contest: Contest;
  readonly estimator: PrefixEstimator;
  readonly logger: Logger;
}

/**
 * Routes by what routers sent where. The prefix counts where the longest known part of the prompt is more than `minMatchRatio` of it; else load decides.
 *
 * Where another mode has given up before, this one stands in for it: with a prefix to go by, under the reason of the other; without, load is to decide.
 */
export class EstimatedMode implements Mode {
  readonly #deps: EstimatedModeDeps;

  constructor(deps: EstimatedModeDeps) {
    this.#deps = deps;
  }

  async rule(work: RequestWork): Promise<Ruling | GivenUp> {
    const { contest, estimator } = this.#deps;
    const config = work.input.route.pool.config.prefixCache.estimate;
    const chains = work.chains ?? (await estimator.chainsOf(work, config));
    if ("reason" in chains) return chains;
    const [residency, load] = await Promise.all([
      estimator.estimate(work, chains, config),
      work.load === null ? contest.readLoad(work) : work.load,
    ]);
    work.load = load;
    work.remember = (endpoint) => estimator.remember(chains, endpoint, config);
    const candidates = contest.candidates(work, load, residency);
    const longest = candidates.reduce((most, { endpoint }) => Math.max(most, residency.matches.get(endpoint.id)?.blocks ?? 0), 0);
    const ratio = residency.blocks === 0 ? 0 : longest / residency.blocks;
    const isLong = ratio > config.minMatchRatio;
    if (!isLong && work.givenUp !== null) return work.givenUp;
    const ranking = contest.rank(work, candidates, isLong ? chains.promptTokens : 0, residency.partingKey ?? work.tieKey);
    if (isLong) this.#log(work, ratio, config);
    const reason = work.givenUp?.reason ?? (isLong ? reasonOf(ranking) : longest === 0 ? "cold" : "low-match");
    return { mode: "estimated", reason, ranking, residency };
  }

  #log(work: RequestWork, ratio: number, config: EstimateConfig): void {
    if (work.isDryRun) return;
    const { requestId } = work.input;
    const compared = `matching ratio: ${ratio.toFixed(2)} > ${config.minMatchRatio.toFixed(2)}`;
    this.#deps.logger.info({ "x-request-id": requestId, matchingRatio: ratio }, `do prefix-aware routing, ${compared}`);
  }
}
