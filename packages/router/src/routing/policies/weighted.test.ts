import { configSchema } from "@kvatlas/shared/config/schema";
import { describe, expect, it } from "vitest";
import { candidateOf } from "../candidate.fixture.ts";
import { createPolicy } from "./create-policy.ts";

const facts = { promptTokens: 1_000, tieKey: "key", lora: null, session: null };
const policyOf = (router: object) => createPolicy(configSchema.parse({ router }).router);

describe("the weighted policy", () => {
  it("adds up llm-d's default weights", () => {
    const idle = candidateOf("idle:1", 0, { waiting: 0, kvUsage: 0.5 });
    const warm = candidateOf("warm:1", 900, { waiting: 4, kvUsage: 0.75 });
    const [first, second] = policyOf({ policy: "weighted" }).rank([idle, warm], facts);
    expect(first).toMatchObject({ endpoint: { id: "warm:1" }, score: 3 * 0.9 + 2 * 0 + 2 * 0.25 });
    expect(second).toMatchObject({ endpoint: { id: "idle:1" }, score: 2 * 1 + 2 * 0.5 });
    expect(second?.parts).toEqual({ "prefix-cache-scorer": 0, "queue-scorer": 1, "kv-cache-utilization-scorer": 0.5 });
  });

  it("leaves out scorers of weight 0 and takes in others", () => {
    const scorers = { "prefix-cache-scorer": 0, "queue-scorer": 0, "kv-cache-utilization-scorer": 0, "active-request-scorer": 1 };
    const [first] = policyOf({ policy: "weighted", scorers }).rank(
      [candidateOf("a:1", 900, { inflightRequests: 1 }), candidateOf("b:1")],
      facts,
    );
    expect(first).toMatchObject({ endpoint: { id: "b:1" }, parts: { "active-request-scorer": 1 } });
  });

  it("is chosen by name; cost is the default", () => {
    expect(policyOf({ policy: "weighted" }).name).toBe("weighted");
    expect(policyOf({}).name).toBe("cost");
  });
});
