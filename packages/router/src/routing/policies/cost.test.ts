import { describe, expect, it } from "vitest";
import { candidateOf } from "../candidate.fixture.ts";
import { costOf, costParts, createCostPolicy } from "./cost.ts";

const weights = { missFactor: 3, decodeFactor: 1, mediumWeights: { gpu: 1, cpu: 0.8, storage: 0.5, other: 0.5 } };

describe("costOf", () => {
  it.each([
    ["an idle endpoint without the prefix: every token is a miss", candidateOf("a"), 1_000, 3_000],
    ["the prefix is worth its tokens", candidateOf("a", 900), 1_000, 300],
    ["a queue is worth its uncached tokens", candidateOf("a", 900, { prefillTokens: 500 }), 1_000, 800],
    ["requests count once, whoever reports them", candidateOf("a", 0, { waiting: 2, running: 3, inflightRequests: 4 }), 0, 5],
    ["and at least those under way", candidateOf("a", 0, { waiting: 0, running: 1, inflightRequests: 4 }), 0, 4],
    ["a prompt of unknown length leaves load alone", candidateOf("a", 0, { prefillTokens: 7, inflightRequests: 1 }), 0, 8],
  ])("%s", (_name, candidate, promptTokens, cost) => {
    expect(costOf(costParts(candidate, promptTokens, weights), weights)).toBe(cost);
  });

  describe("createCostPolicy", () => {
    const facts = { promptTokens: 1_000, tieKey: "key", lora: null, session: null };

    it("puts the least cost first and says what it is made of", () => {
      const busy = candidateOf("a", 900, { prefillTokens: 2_900, inflightRequests: 2 });
      const [first, second] = createCostPolicy(weights).rank([busy, candidateOf("b")], facts);
      expect(first).toMatchObject({ endpoint: { id: "b" }, score: -3_000, parts: { queued: 0, uncached: 1_000, requests: 0 } });
      expect(second).toMatchObject({ endpoint: { id: "a" }, score: -3_202, parts: { queued: 2_900, uncached: 100, requests: 2 } });
    });
  });

  it("weighs tokens by their medium", () => {
    const candidate = { ...candidateOf("a"), byMedium: { gpu: 100, cpu: 100, storage: 100 } };
    expect(costOf(costParts(candidate, 300, weights), weights)).toBeCloseTo(3 * (300 - 100 - 80 - 50));
  });

  describe("createCostPolicy", () => {
    const facts = { promptTokens: 1_000, tieKey: "key", lora: null, session: null };

    it("puts the least cost first and says what it is made of", () => {
      const busy = candidateOf("a", 900, { prefillTokens: 2_900, inflightRequests: 2 });
      const [first, second] = createCostPolicy(weights).rank([busy, candidateOf("b")], facts);
      expect(first).toMatchObject({ endpoint: { id: "b" }, score: -3_000, parts: { queued: 0, uncached: 1_000, requests: 0 } });
      expect(second).toMatchObject({ endpoint: { id: "a" }, score: -3_202, parts: { queued: 2_900, uncached: 100, requests: 2 } });
    });
  });
});

describe("createCostPolicy", () => {
  const facts = { promptTokens: 1_000, tieKey: "key", lora: null, session: null };

  it("puts the least cost first and says what it is made of", () => {
    const busy = candidateOf("a", 900, { prefillTokens: 2_900, inflightRequests: 2 });
    const [first, second] = createCostPolicy(weights).rank([busy, candidateOf("b")], facts);
    expect(first).toMatchObject({ endpoint: { id: "b" }, score: -3_000, parts: { queued: 0, uncached: 1_000, requests: 0 } });
    expect(second).toMatchObject({ endpoint: { id: "a" }, score: -3_202, parts: { queued: 2_900, uncached: 100, requests: 2 } });
  });
});
