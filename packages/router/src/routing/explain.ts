import type { Ranked } from "./candidate.ts";
import type { Decision } from "./decision.ts";

/** Scores that fit a log line. */
const loggedScores = 3;

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
    timings: decision.timings,
  };
}

/** The same in short, for the line that every decision logs. */
export function logFieldsOf(decision: Decision): Readonly<Record<string, unknown>> {
  return {
    endpoint: decision.endpoint.id,
    mode: decision.mode,
    reason: decision.reason,
    promptTokens: decision.promptTokens,
    matchedTokens: decision.matchedTokens,
    matchedBlocks: decision.matchedBlocks,
    blocks: decision.blocks,
    top: decision.ranking
      .slice(0, loggedScores)
      .map(({ endpoint, matchedTokens, score }) => ({ endpoint: endpoint.id, matchedTokens, score })),
    timings: decision.timings,
  };
}

/** Matched part of the blocks that were looked up, 0..1; 0 when there were none. */
export function matchingRatio(decision: Decision): number {
  return decision.blocks === 0 ? 0 : decision.matchedBlocks / decision.blocks;
}

function explainRanked({ endpoint, matchedTokens, byMedium, load, score }: Ranked): object {
  return { endpoint: endpoint.id, matchedTokens, byMedium, load, score };
}
