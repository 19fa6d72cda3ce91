import type { Score } from "../candidate.ts";
import { rank } from "../rank.ts";
import type { Policy } from "./policy.ts";
import type { ScorerOptions } from "./scorer.ts";
import { type ScorerName, scorers } from "./scorers.ts";

/** Weight of each scorer; 0 leaves it out. */
export type ScorerWeights = Readonly<Record<ScorerName, number>>;

/**
 * The weighted sum of named scorers, highest first: the policy of llm-d's router, with its names and its default weights (prefix-cache 3, queue 2,
 * kv-cache-utilization 2).
 */
export function createWeightedPolicy(weights: ScorerWeights, options: ScorerOptions): Policy {
  const weighed = Object.entries(weights)
    .filter(([, weight]) => weight > 0)
    .map(([name, weight]) => ({ name, weight, scorer: scorers[name as ScorerName] }));
  return {
    name: "weighted",
    rank: (candidates, facts) => {
      const columns = weighed.map(({ name, weight, scorer }) => ({ name, weight, scores: scorer(candidates, facts, options) }));
      const scoreAt = (place: number): Score => {
        const parts: Record<string, number> = {};
        let score = 0;
        for (const { name, weight, scores } of columns) {
          const part = scores[place] ?? 0;
          parts[name] = part;
          score += weight * part;
        }
        return { score, parts };
      };
      return rank(candidates, (_, place) => scoreAt(place), facts.tieKey);
    },
  };
}
