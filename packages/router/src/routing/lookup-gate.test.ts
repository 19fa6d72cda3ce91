import { FakeClock } from "@kvatlas/shared/clock";
import { describe, expect, it } from "vitest";
import { LookupGate } from "./lookup-gate.ts";

const why = { reason: "lookup-timeout" } as const;

describe("LookupGate", () => {
  it("shuts after some failures in a row, and lets one try after a rest that doubles", () => {
    const clock = new FakeClock();
    const gate = new LookupGate(clock, { failures: 2, restMs: 100, maxRestMs: 150 });
    gate.failed(why);
    expect(gate.shut()).toBeNull();
    gate.failed(why);
    expect(gate.shut()).toEqual(why);
    clock.advance(100);
    expect([gate.shut(), gate.shut()]).toEqual([null, why]);
    gate.failed(why);
    clock.advance(149);
    expect(gate.shut()).toEqual(why);
    clock.advance(1);
    expect(gate.shut()).toBeNull();
  });

  it("opens with one success and needs as many failures to shut again", () => {
    const gate = new LookupGate(new FakeClock(), { failures: 2 });
    gate.failed(why);
    gate.failed(why);
    gate.succeeded();
    gate.failed(why);
    expect(gate.shut()).toBeNull();
  });
});
