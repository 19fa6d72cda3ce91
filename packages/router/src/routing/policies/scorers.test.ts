import { describe, expect, it } from "vitest";
import { candidateOf } from "../candidate.fixture.ts";
import type { Candidate } from "../candidate.ts";
import type { RequestFacts } from "./policy.ts";
import { type ScorerName, scorers } from "./scorers.ts";

const options = { mediumWeights: { gpu: 1, cpu: 0.8, storage: 0.5, other: 0.5 } };

function scoresOf(name: ScorerName, candidates: readonly Candidate[], facts: Partial<RequestFacts> = {}): readonly number[] {
  return scorers[name](candidates, { promptTokens: 1_000, tieKey: "key", lora: null, session: null, ...facts }, options);
}

const ids = ["a:1", "b:1", "c:1"];
const cold = ids.map((id) => candidateOf(id));

describe("prefix-cache-scorer", () => {
  it("is the cached part of the prompt, by medium", () => {
    const inHostMemory = { ...candidateOf("b:1"), byMedium: { gpu: 500, cpu: 500 } };
    expect(scoresOf("prefix-cache-scorer", [candidateOf("a:1", 250), inHostMemory, candidateOf("c:1")])).toEqual([0.25, 0.9, 0]);
  });

  it("says nothing about an unknown prompt", () => {
    expect(scoresOf("prefix-cache-scorer", cold, { promptTokens: 0 })).toEqual([0, 0, 0]);
  });
});

describe("queue-scorer", () => {
  it("goes from the shortest to the longest queue", () => {
    const queues = [0, 5, 10].map((waiting, i) => candidateOf(ids[i] ?? "", 0, { waiting }));
    expect(scoresOf("queue-scorer", queues)).toEqual([1, 0.5, 0]);
  });

  it("counts what an engine got since its figures were read", () => {
    const loads = [
      { waiting: 2, running: 3, inflightRequests: 4 },
      { waiting: 0, running: 3, inflightRequests: 7 },
      { waiting: 0, running: 3, inflightRequests: 2 },
    ];
    const candidates = loads.map((load, i) => candidateOf(ids[i] ?? "", 0, load));
    expect(scoresOf("queue-scorer", candidates)).toEqual([0.5, 0, 1]);
  });

  it("does not tell equal queues apart", () => {
    expect(
      scoresOf(
        "queue-scorer",
        ids.map((id) => candidateOf(id, 0, { waiting: 7 })),
      ),
    ).toEqual([1, 1, 1]);
    expect(scoresOf("queue-scorer", [])).toEqual([]);
  });
});

describe("kv-cache-utilization-scorer", () => {
  it("is what is free, and everything where the engine does not tell", () => {
    const usages = [0.25, 1, null].map((kvUsage, i) => candidateOf(ids[i] ?? "", 0, { kvUsage }));
    expect(scoresOf("kv-cache-utilization-scorer", usages)).toEqual([0.75, 0, 1]);
  });
});

describe("lora-affinity-scorer", () => {
  it("prefers a running adapter to a free slot, a slot to a queue, and a queue to neither", () => {
    const loads = [
      { runningLoras: ["law"], maxLoras: 1 },
      { runningLoras: ["tax"], maxLoras: 2 },
      { runningLoras: ["tax"], waitingLoras: ["law"], maxLoras: 2 },
      { runningLoras: ["tax"], waitingLoras: ["art"], maxLoras: 2 },
      { runningLoras: ["tax"], maxLoras: null },
    ];
    const candidates = loads.map((load, i) => candidateOf(`${i}:1`, 0, load));
    expect(scoresOf("lora-affinity-scorer", candidates, { lora: "law" })).toEqual([1, 0.8, 0.6, 0, 0.8]);
    expect(scoresOf("lora-affinity-scorer", candidates)).toEqual([0, 0, 0, 0, 0]);
  });
});

describe("active-request-scorer", () => {
  it("goes from none under way to the most", () => {
    const busy = [0, 1, 4].map((inflightRequests, i) => candidateOf(ids[i] ?? "", 0, { inflightRequests }));
    expect(scoresOf("active-request-scorer", busy)).toEqual([1, 0.75, 0]);
    expect(scoresOf("active-request-scorer", cold)).toEqual([1, 1, 1]);
  });
});

describe("session-affinity-scorer", () => {
  it("keeps a session at one endpoint, and sessions apart", () => {
    const homes = new Set(Array.from({ length: 40 }, (_, i) => scoresOf("session-affinity-scorer", cold, { session: `s${i}` }).indexOf(1)));
    expect(homes).toEqual(new Set([0, 1, 2]));
    expect(scoresOf("session-affinity-scorer", cold, { session: "s" })).toEqual(
      [...scoresOf("session-affinity-scorer", [...cold].reverse(), { session: "s" })].reverse(),
    );
  });

  it("is silent without a session", () => {
    expect(scoresOf("session-affinity-scorer", cold)).toEqual([0, 0, 0]);
  });
});

describe("no-hit-lru-scorer", () => {
  it("spreads cold prompts evenly", () => {
    const firsts = Array.from({ length: 300 }, (_, i) => scoresOf("no-hit-lru-scorer", cold, { tieKey: `prompt ${i}` }).indexOf(1));
    for (const place of [0, 1, 2]) expect(firsts.filter((first) => first === place).length).toBeGreaterThan(60);
    expect([...scoresOf("no-hit-lru-scorer", cold)].sort()).toEqual([0, 0.5, 1]);
    expect(scoresOf("no-hit-lru-scorer", cold.slice(0, 1))).toEqual([1]);
  });

  it("leaves warm ones alone", () => {
    expect(scoresOf("no-hit-lru-scorer", [candidateOf("a:1", 16), candidateOf("b:1")])).toEqual([0.5, 0.5]);
  });
});
