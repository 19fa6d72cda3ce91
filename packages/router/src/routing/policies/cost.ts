import { type Candidate, requestsOf, type ScoreParts } from "../candidate.ts";
import { rank } from "../rank.ts";
import { heldWorth, type MediumWeights } from "./held-worth.ts";
import type { Policy } from "./policy.ts";

export interface CostWeights {
  /** What an uncached token costs against a token already queued; above 1 because a miss also evicts somebody else's prefix. */
  readonly missFactor: number;
  /** Queued-token equivalents per request the endpoint is busy with: decoding slows prefill. */
  readonly decodeFactor: number;
  readonly mediumWeights: MediumWeights;
}

/** What a cost is made of, in prefill tokens of delay and before its factors. */
export interface CostParts extends ScoreParts {
  readonly queued: number;
  readonly uncached: number;
  readonly requests: number;
}

/**
 * What sending the request to this endpoint costs, in prefill tokens of delay:
 *
 * `queued prefill tokens + missFactor * uncached tokens of this request + decodeFactor * requests`
 *
 * Queued prefill tokens are those of all routers' requests without a first byte, each counted without its cached part; uncached tokens are
 * `promptTokens - sum over media of weight * matched tokens`. The first term is how long the request waits, the second how long it
 * computes and how much cache it takes from others, the third tells idle endpoints apart.
 *
 * @param promptTokens - 0 when unknown, which leaves load alone
 */
export function costOf(parts: CostParts, weights: CostWeights): number {
  return parts.queued + weights.missFactor * parts.uncached + weights.decodeFactor * parts.requests;
}

export function costParts(candidate: Candidate, promptTokens: number, weights: CostWeights): CostParts {
  return {
    queued: candidate.load.prefillTokens,
    uncached: Math.max(0, promptTokens - heldWorth(candidate, weights.mediumWeights)),
    requests: requestsOf(candidate.load),
  };
}

/** The least cost first; a score is a cost with its sign turned. */
export function createCostPolicy(weights: CostWeights): Policy {
  return {
    name: "cost",
    rank: (candidates, { promptTokens, tieKey }) =>
      rank(
        candidates,
        (candidate) => {
          const parts = costParts(candidate, promptTokens, weights);
          return { score: 0 - costOf(parts, weights), parts };
        },
        tieKey,
      ),
  };
}
