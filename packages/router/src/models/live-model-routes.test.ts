import type { PoolRecord } from "@kvatlas/shared/registry/pool-record";
import { describe, expect, it } from "vitest";
import { LiveModelRoutes } from "./live-model-routes.ts";
import { resolveModel } from "./model-routes.ts";
import { criticalityByObjective } from "./objective.ts";

function recordOf(models: readonly (readonly [name: string, target: string])[]): PoolRecord {
  return {
    source: "InferencePool default/p",
    exists: true,
    targets: [],
    prefixCache: null,
    objectives: [],
    models: models.map(([name, model]) => ({ name, targets: [{ model, weight: 1 }], criticality: "critical", from: "InferenceModel x" })),
    problems: [],
    at: 0,
  };
}

describe("names that stand for models", () => {
  it("come and go with what is discovered; configured ones win, and stay", () => {
    const live = new LiveModelRoutes([
      { name: "chat", targets: [{ model: "mine", weight: 1 }], criticality: "standard", answerAs: "client" },
    ]);
    const { routes } = live;
    const target = (name: string) => resolveModel(routes, name, "key").target;
    expect(target("fast")).toBe("fast");
    live.follow([
      recordOf([
        ["fast", "small"],
        ["chat", "theirs"],
      ]),
      recordOf([["fast", "other"]]),
    ]);
    expect([target("fast"), target("chat")]).toEqual(["small", "mine"]);
    expect(resolveModel(routes, "fast", "key").criticality).toBe("critical");
    live.follow([]);
    expect([target("fast"), target("chat")]).toEqual(["fast", "mine"]);
  });
});

describe("an objective", () => {
  const discovered = {
    objectives: [
      { name: "urgent", priority: 5 },
      { name: "batch", priority: -1 },
      { name: "plain", priority: 0 },
    ],
  };
  it.each([
    [{ "x-llm-d-inference-objective": "urgent" }, "critical"],
    [{ "x-gateway-inference-objective": "batch" }, "sheddable"],
    [{ "x-llm-d-inference-objective": "plain", "x-gateway-inference-objective": "urgent" }, "standard"],
    [{ "x-llm-d-inference-objective": "unheard-of" }, null],
    [{}, null],
  ])("%j", (headers, expected) => {
    expect(criticalityByObjective(headers, discovered)).toBe(expected);
    expect(criticalityByObjective(headers, undefined)).toBeNull();
  });
});
