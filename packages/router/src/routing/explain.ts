import type { Division } from "../disaggregation/division.ts";
import type { Ranked } from "./candidate.ts";
import type { Decision } from "./decision.ts";

/** Scores that fit a log line or a header. */
const topScores = 3;

/** A decision as an answer of the route API. */
export function explainDecision(decision: Decision, model: string | null): object {
  return {
    endpoint: decision.endpoint.id,
    model,
    mode: decision.mode,
    reason: decision.reason,
    promptTokens: decision.promptTokens,
    matchedTokens: decision.matchedTokens,
    matchedBlocks: decision.matchedBlocks,
    blocks: decision.blocks,
    scores: decision.ranking.map(explainRanked),
    ...(decision.division === undefined ? {} : { division: explainDivision(decision.division) }),
    timings: decision.timings,
  };
}

function explainDivision({ outcome, prefill }: Division): object {
  return {
    outcome,
    prefill: prefill[0]?.endpoint.id ?? null,
    matchedTokens: prefill[0]?.matchedTokens ?? 0,
    scores: prefill.map(explainRanked),
  };
}

/** The best endpoints with their scores, for the line that every request logs. */
export function topOf({ ranking }: Decision): readonly object[] {
  return ranking
    .slice(0, topScores)
    .map(({ endpoint, matchedTokens, score, parts }) => ({ endpoint: endpoint.id, matchedTokens, score, parts }));
}

/**
 * The same in one line, for a header: mode and reason, then the best endpoints with their scores and what these are made of, e.g.
 * `precise prefix; 10.0.0.5:8000 score=-361 queued=0 uncached=120 requests=1; 10.0.0.6:8000 score=-3600 queued=0 uncached=1200 requests=0`. In pools
 * that have replicas for prefill, how the request is divided comes second, e.g. `divided prefill 10.0.0.4:8000 score=...` or `short`.
 */
export function decisionHeader(decision: Decision): string {
  const top = decision.ranking.slice(0, topScores).map(scoresOf);
  const { division } = decision;
  const prefill = division === undefined ? [] : [[division.outcome, ...division.prefill.slice(0, 1).map(scoresOf)].join(" prefill ")];
  return [`${decision.mode} ${decision.reason}`, ...prefill, ...top].join("; ");
}

function scoresOf({ endpoint, score, parts }: Ranked): string {
  const fields = Object.entries({ score, ...parts }).map(([name, value]) => `${name}=${Number(value.toFixed(3))}`);
  return [endpoint.id, ...fields].join(" ");
}

/** Matched part of the blocks that were looked up, 0..1; 0 when there were none. */
export function matchingRatio(decision: Decision): number {
  return decision.blocks === 0 ? 0 : decision.matchedBlocks / decision.blocks;
}

function explainRanked({ endpoint, matchedTokens, byMedium, load, score, parts }: Ranked): object {
  return { endpoint: endpoint.id, matchedTokens, byMedium, load, score, parts };
}
