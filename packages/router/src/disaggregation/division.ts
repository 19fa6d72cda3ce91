import type { RouterConfig } from "@kvatlas/shared/config/schema";
import type { Ranked } from "../routing/candidate.ts";
import type { Placement } from "../routing/placement.ts";

export type DisaggregationConfig = RouterConfig["disaggregation"];

/**
 * How a request of a pool that has replicas for prefill is computed. `divided`: prompt on one replica, answer on another. As a whole, because: `short` (the
 * replica that decodes has all but little of the prompt, or it is short), `held` (the replica for prefill would compute far more than the other one
 * lacks), `same-replica` (one replica is best for both), `indivisible` (several prompts or answers, or another API), `no-prefill` and `no-decode` (no
 * replica for it can be used).
 */
export const divisionOutcomes = ["divided", "short", "held", "same-replica", "indivisible", "no-prefill", "no-decode"] as const;
export type DivisionOutcome = (typeof divisionOutcomes)[number];

export interface Division {
  readonly outcome: DivisionOutcome;
  /** Replicas for prefill, best first; not empty where the request is divided, else empty. */
  readonly prefill: readonly Ranked[];
  /** Prompt tokens, guessed by the length of the text where the prompt was not tokenized. */
  readonly promptTokens: number;
  /** Where the prefill step goes; absent for dry runs and where nothing is remembered. */
  readonly placement?: Placement;
}

/**
 * Why a request is to be computed as a whole; null when it is worth dividing.
 *
 * @param decode - the replica that would decode; undefined when there is none
 * @param prefill - the one that would compute the prompt
 */
export function whyWhole(
  config: Pick<DisaggregationConfig, "minUncachedTokens" | "maxRecomputeRatio">,
  promptTokens: number,
  decode: Pick<Ranked, "endpoint" | "matchedTokens"> | undefined,
  prefill: Pick<Ranked, "endpoint" | "matchedTokens"> | undefined,
): DivisionOutcome | null {
  if (decode === undefined) return "no-decode";
  const lacking = promptTokens - decode.matchedTokens;
  if (lacking <= config.minUncachedTokens) return "short";
  if (prefill === undefined) return "no-prefill";
  if (prefill.endpoint.id === decode.endpoint.id) return "same-replica";
  return promptTokens - prefill.matchedTokens > config.maxRecomputeRatio * lacking ? "held" : null;
}
