import { prefillsForOthers, takesHandovers } from "@kvatlas/shared/registry/engine-role";
import type { Ranked } from "../routing/candidate.ts";
import type { Contest } from "../routing/contest.ts";
import type { Ruling } from "../routing/modes/mode.ts";
import { Placement } from "../routing/placement.ts";
import type { Policy } from "../routing/policies/policy.ts";
import type { RequestWork } from "../routing/request-work.ts";
import { type DisaggregationConfig, type Division, type DivisionOutcome, whyWhole } from "./division.ts";

export interface DividerDeps {
  readonly contest: Contest;
  /** Chooses where to decode: what is not cached there is transferred, not computed. */
  readonly transferPolicy: Policy;
}

/** Bytes of text per token where the prompt was not tokenized. */
const bytesPerToken = 4;

/**
 * Divides requests between replicas for prefill and replicas for decoding. It goes by what a mode has found out already: prefixes and load of all replicas of
 * the pool are read at once, so that a second choice costs no second lookup.
 */
export class Divider {
  readonly #deps: DividerDeps;
  readonly #config: DisaggregationConfig;

  constructor(deps: DividerDeps, config: DisaggregationConfig) {
    this.#deps = deps;
    this.#config = config;
  }

  /** The ruling, its ranking in the order in which to decode, and how the request is divided; null in pools without replicas for prefill. */
  divide(work: RequestWork, ruling: Ruling): { readonly ruling: Ruling; readonly division: Division } | null {
    const { route, request } = work.input;
    if (!route.endpoints.some(({ role }) => prefillsForOthers(role))) return null;
    const promptTokens = work.promptTokens ?? Math.ceil(request.bodyText.length / bytesPerToken);
    const whole = (outcome: DivisionOutcome) => ({ ruling, division: { outcome, prefill: [], promptTokens } });
    if (request.isDivisible !== true) return whole("indivisible");
    const [best] = ruling.ranking;
    if (best !== undefined && promptTokens - best.matchedTokens <= this.#config.minUncachedTokens) return whole("short");

    const known = ruling.residency.blocks > 0 ? promptTokens : 0;
    const prefill = this.#prefill(work, ruling, known);
    const ranking = this.#decode(work, ruling, known);
    const why = whyWhole(this.#config, promptTokens, ranking[0], prefill[0]);
    if (why !== null) return whole(why);
    const placement = work.isDryRun || work.remember === null ? null : new Placement(work.remember);
    if (prefill[0] !== undefined) placement?.sentTo(prefill[0].endpoint);
    const division: Division = { outcome: "divided", prefill, promptTokens, ...(placement === null ? {} : { placement }) };
    // Whoever cannot take what is handed over can still compute the whole, when all others have failed.
    const others = ruling.ranking.filter(({ endpoint }) => !takesHandovers(endpoint.role));
    return { ruling: { ...ruling, ranking: [...ranking, ...others] }, division };
  }

  #prefill(work: RequestWork, { residency }: Ruling, promptTokens: number): readonly Ranked[] {
    const { contest } = this.#deps;
    const candidates = contest.prefillCandidates(work, residency);
    return candidates.length === 0 ? [] : contest.rank(work, candidates, promptTokens, residency.partingKey ?? work.tieKey);
  }

  #decode(work: RequestWork, { mode, ranking, residency }: Ruling, promptTokens: number): readonly Ranked[] {
    const candidates = ranking.filter(({ endpoint }) => takesHandovers(endpoint.role));
    if (mode === "off" || candidates.length === 0) return candidates;
    return this.#deps.contest.rank(work, candidates, promptTokens, residency.partingKey ?? work.tieKey, this.#deps.transferPolicy);
  }
}
