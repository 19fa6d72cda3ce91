import type { Candidate } from "../candidate.ts";
import type { MediumWeights } from "./held-worth.ts";
import type { RequestFacts } from "./policy.ts";

/**
 * One view of the candidates: a score from 0 (worst) to 1 (best) for each, in their order. Names and meanings of the scorers are those of llm-d's router
 * (v0.10), so that its weights carry over; where one differs, it says so.
 */
export type Scorer = (candidates: readonly Candidate[], facts: RequestFacts, options: ScorerOptions) => readonly number[];

export interface ScorerOptions {
  readonly mediumWeights: MediumWeights;
}
