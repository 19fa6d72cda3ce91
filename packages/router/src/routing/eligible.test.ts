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

  it("takes those that are not ready when there is nothing better, but never sleeping ones", () => {
    expect(eligibleEndpoints({ endpoints: [a, down], isSleeping: (endpoint) => endpoint === a, isEjected: never })).toEqual([down]);
    expect(eligibleEndpoints({ endpoints: [a, down], isSleeping: () => true, isEjected: never })).toEqual([]);
  });

  it("avoids ejected ones, but not at the price of having none", () => {
    expect(eligibleEndpoints({ endpoints: [a, b], isSleeping: never, isEjected: (endpoint) => endpoint === a })).toEqual([b]);
    expect(eligibleEndpoints({ endpoints: [a, b], isSleeping: never, isEjected: () => true })).toEqual([a, b]);
  });
});

describe("whyNone", () => {
  it("says what is wrong with them", () => {
    expect(whyNone([])).toMatch(/no replica is known/);
    expect(whyNone([a, b])).toBe("all 2 replicas of this model are asleep.");
    expect(whyNone([endpointOf("p:1", { role: "prefill" })])).toMatch(/are helpers/);
  });
});
