import type { Medium } from "@kvatlas/shared/types";
import type { Candidate } from "../candidate.ts";

/** Worth of a matched token by medium, 0..1: one in host memory has to be copied back first. */
export type MediumWeights = Readonly<Record<Medium, number>>;

/** What a candidate's cached tokens are worth, in tokens that need not be computed: `sum over media of weight * matched tokens`. */
export function heldWorth(candidate: Candidate, weights: MediumWeights): number {
  let worth = 0;
  for (const medium in candidate.byMedium) {
    worth += weights[medium as Medium] * (candidate.byMedium[medium as Medium] ?? 0);
  }
  return worth;
}
