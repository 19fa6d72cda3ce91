import type { Ranked } from "../candidate.ts";
import type { DecisionMode, DecisionReason } from "../decision.ts";
import type { GivenUp, RequestWork } from "../request-work.ts";
import type { Residency } from "../residency.ts";

/** The order that a mode puts the endpoints in, and why. */
export interface Ruling {
  readonly mode: DecisionMode;
  readonly reason: DecisionReason;
  /** Best first; not empty. */
  readonly ranking: readonly Ranked[];
  readonly residency: Residency;
}

/**
 * One way of deciding. It gives up where it cannot know in time what it goes by, and the next one of the pool decides.
 *
 * Rejects only with HttpError: 503 when no endpoint can take requests.
 */
export interface Mode {
  rule(work: RequestWork): Promise<Ruling | GivenUp>;
}

export function hasGivenUp(outcome: Ruling | GivenUp): outcome is GivenUp {
  return !("ranking" in outcome);
}

/** Why the first of a ranking is first, by what is known of prefixes. */
export function reasonOf(ranking: readonly Ranked[]): "prefix" | "balanced" | "cold" {
  const longest = ranking.reduce((most, candidate) => Math.max(most, candidate.matchedTokens), 0);
  if (longest === 0) return "cold";
  return ranking[0]?.matchedTokens === longest ? "prefix" : "balanced";
}
