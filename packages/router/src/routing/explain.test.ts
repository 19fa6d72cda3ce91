import { describe, expect, it } from "vitest";
import { candidateOf } from "./candidate.fixture.ts";
import type { Decision } from "./decision.ts";
import { decisionHeader, explainDecision, topOf } from "./explain.ts";
import { createCostPolicy } from "./policies/cost.ts";

const policy = createCostPolicy({ missFactor: 3, decodeFactor: 1, mediumWeights: { gpu: 1, cpu: 0.8, storage: 0.5, other: 0.5 } });
const ids = ["10.0.0.1:8000", "10.0.0.2:8000", "10.0.0.3:8000", "10.0.0.4:8000"];
const ranking = policy.rank(
  ids.map((id, i) => candidateOf(id, 400 - 100 * i, { inflightRequests: 1 })),
  { promptTokens: 400, tieKey: "key", lora: null, session: null },
);
const [picked] = ranking;
if (picked === undefined) throw new Error("nothing was ranked");
const decision: Decision = {
  endpoint: picked.endpoint,
  mode: "precise",
  reason: "prefix",
  promptTokens: 400,
  matchedTokens: 400,
  blocks: 25,
  matchedBlocks: 25,
  ranking,
  timings: { tokenizeMs: null, keysMs: 0.1, lookupMs: 0.2, totalMs: 0.4 },
};

describe("a decision explains itself", () => {
  it("in a header: mode, reason and the three best with the parts of their scores", () => {
    expect(decisionHeader(decision)).toBe(
      "precise prefix; 10.0.0.1:8000 score=-1 queued=0 uncached=0 requests=1; " +
        "10.0.0.2:8000 score=-301 queued=0 uncached=100 requests=1; 10.0.0.3:8000 score=-601 queued=0 uncached=200 requests=1",
    );
  });

  it("in the log with the three best, in the route API with all", () => {
    expect(topOf(decision)).toHaveLength(3);
    expect(explainDecision(decision, "m")).toMatchObject({
      mode: "precise",
      reason: "prefix",
      scores: ids.map((endpoint, i) => ({ endpoint, score: -(300 * i + 1), parts: { uncached: 100 * i } })),
    });
  });
});
