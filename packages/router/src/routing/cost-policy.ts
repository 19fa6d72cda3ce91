import type { Medium } from "@kvatlas/shared/types";
import { type Candidate, requestsOf } from "./candidate.ts";

export interface CostWeights {
  /** What an uncached token costs against a token already queued; above 1 because a miss also evicts somebody else's prefix. */
  readonly missFactor: number;
  /** Queued-token equivalents per request the endpoint is busy with: decoding slows prefill. */
  readonly decodeFactor: number;
  /** Worth of a matched token by medium, 0..1: one in host memory has to be copied back first. */
  readonly mediumWeights: Readonly<Record<Medium, number>>;
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
export function costOf(candidate: Candidate, promptTokens: number, weights: CostWeights): number {
  let worth = 0;
  for (const medium in candidate.byMedium) {
    worth += weights.mediumWeights[medium as Medium] * (candidate.byMedium[medium as Medium] ?? 0);
  }
  const uncached = Math.max(0, promptTokens - worth);
  return candidate.load.prefillTokens + weights.missFactor * uncached + weights.decodeFactor * requestsOf(candidate.load);
}
