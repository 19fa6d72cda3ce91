import { describe, expect, it } from "vitest";
import { endpointOf } from "./candidate.fixture.ts";
import { eligibleEndpoints, whyNone } from "./eligible.ts";

const a = endpointOf("a:1");
const b = endpointOf("b:1");
const down = endpointOf("c:1", { ready: false, status: "not-ready" });
const never = () => false;

describe("eligibleEndpoints", () => {
  it("takes the ready and awake ones", () => {
    expect(eligibleEndpoints({ endpoints: [a, b, down], isSleeping: (endpoint) => endpoint === b, isEjected: never })).toEqual([a]);
  });

  it("avoids ejected ones, but not at the price of having none", () => {
    expect(eligibleEndpoints({ endpoints: [a, b], isSleeping: never, isEjected: (endpoint) => endpoint === a })).toEqual([b]);
    expect(eligibleEndpoints({ endpoints: [a, b], isSleeping: never, isEjected: () => true })).toEqual([a, b]);
  });
});

describe("whyNone", () => {
  it("says what is wrong with them", () => {
    expect(whyNone([], never)).toMatch(/no replica is known/);
    expect(whyNone([a, down], () => true)).toMatch(/none of the 2 replicas .* 1 asleep, 1 not ready/);
  });
});
