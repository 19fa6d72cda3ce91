import { type Candidate, type Ranked, requestsOf, type Score, scored } from "./candidate.ts";
import { rank } from "./rank.ts";

export type OffPolicyName = "least-request" | "round-robin" | "random";

/** What the two baselines that are not functions of the request need. */
export interface OffPolicySources {
  /** Counts up by one with each call. */
  readonly next: () => number;
  /** 0 <= value < 1 */
  readonly random: () => number;
}

/** Policies without knowledge of caches. `least-request` is deterministic; the other two are baselines to compare with. */
export function rankOff(
  policy: OffPolicyName,
  candidates: readonly Candidate[],
  tieKey: string,
  sources: OffPolicySources,
): readonly Ranked[] {
  if (policy === "least-request") return rank(candidates, ({ load }) => least({ requests: requestsOf(load) }), tieKey);
  if (candidates.length === 0) return [];
  const start = policy === "round-robin" ? sources.next() % candidates.length : Math.floor(sources.random() * candidates.length);
  return [...candidates.slice(start), ...candidates.slice(0, start)].map((candidate, place) =>
    scored(candidate, { score: 0 - place, parts: {} }),
  );
}

function least(parts: { readonly requests: number }): Score {
  return { score: 0 - parts.requests, parts };
}
