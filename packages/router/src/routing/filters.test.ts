import { describe, expect, it } from "vitest";
import { endpointOf } from "./candidate.fixture.ts";
import { hasAdapter, isAwake, isReady, isTrusted, servesModel } from "./filters.ts";

const endpoint = endpointOf("a:1", { loras: { law: "/adapters/law" } });

describe("filters", () => {
  it("model: by exact name", () => {
    expect(servesModel({ config: { model: "m" } }, "m")).toBe(true);
    expect(servesModel({ config: { model: "m" } }, "M")).toBe(false);
  });

  it("lora: where it is loaded, whatever it is called", () => {
    expect(hasAdapter(endpoint, "law")).toBe(true);
    expect(hasAdapter(endpoint, "tax")).toBe(false);
    expect(hasAdapter(endpoint, "constructor")).toBe(false);
  });

  it("ready, awake and not ejected", () => {
    expect([isReady(endpoint), isReady(endpointOf("b:1", { ready: false, status: "silent" }))]).toEqual([true, false]);
    expect([isAwake(endpoint, () => false), isAwake(endpoint, () => true)]).toEqual([true, false]);
    expect([isTrusted(endpoint, () => false), isTrusted(endpoint, () => true)]).toEqual([true, false]);
  });
});
