import { describe, expect, it } from "vitest";
import { modelRoutesByName, resolveModel } from "./model-routes.ts";

const routes = modelRoutesByName([
  {
    name: "chat",
    targets: [
      { model: "base", weight: 9 },
      { model: "canary", weight: 1 },
      { model: "never", weight: 0 },
    ],
    criticality: "critical",
    answerAs: "client",
  },
  { name: "same", targets: [{ model: "same", weight: 1 }], criticality: "sheddable", answerAs: "client" },
]);

describe("resolveModel", () => {
  it("leaves other names alone", () => {
    expect(resolveModel(routes, "other", "k")).toEqual({ target: "other", criticality: "standard", alias: null, restoreInAnswers: false });
    expect(resolveModel(routes, null, "k").target).toBeNull();
  });

  it("gives a name of its own a criticality, without rewriting", () => {
    expect(resolveModel(routes, "same", "k")).toEqual({ target: "same", criticality: "sheddable", alias: null, restoreInAnswers: false });
  });

  it("splits by weight, and stays with the same key", () => {
    const counts: Record<string, number> = {};
    for (let i = 0; i < 10_000; i++) {
      const { target } = resolveModel(routes, "chat", `request-${i}`);
      expect(resolveModel(routes, "chat", `request-${i}`).target).toBe(target);
      counts[target ?? ""] = (counts[target ?? ""] ?? 0) + 1;
    }
    expect(counts.never).toBeUndefined();
    expect((counts.canary ?? 0) / 10_000).toBeCloseTo(0.1, 1);
  });
});
