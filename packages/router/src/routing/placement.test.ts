import type { Timers } from "@kvatlas/shared/clock";
import { describe, expect, it } from "vitest";
import { endpointOf } from "./candidate.fixture.ts";
import { Placement } from "./placement.ts";

const [a, b] = [endpointOf("a:1"), endpointOf("b:1")];

function bench() {
  const said: string[] = [];
  let waiting: (() => void)[] = [];
  const timers: Timers = {
    after: (_, run) => {
      waiting.push(run);
      return () => {
        waiting = waiting.filter((other) => other !== run);
      };
    },
  };
  const placement = new Placement(
    (endpoint, isAgain) => {
      const name = `${endpoint.id}${isAgain ? " again" : ""}`;
      said.push(name);
      return () => void said.push(`not ${name}`);
    },
    { timers, firstMs: 300, intervalMs: 1_500 },
  );
  const tick = (): void => {
    const due = waiting;
    waiting = [];
    for (const run of due) run();
  };
  return { said, placement, tick, timersSet: () => waiting.length };
}

describe("a placement", () => {
  it("is said again while the request waits, a last time when it is answered, and no more", () => {
    const { said, placement, tick, timersSet } = bench();
    placement.sentTo(a);
    expect(timersSet()).toBe(0);
    placement.sentTo(a);
    placement.waits();
    placement.waits();
    tick();
    tick();
    placement.answered();
    placement.answered();
    tick();
    expect(said).toEqual(["a:1", "a:1 again", "a:1 again", "a:1 again"]);
    expect(timersSet()).toBe(0);
  });

  it("follows the request to another endpoint, and is taken back when it fails", () => {
    const { said, placement, tick, timersSet } = bench();
    placement.sentTo(a);
    placement.waits();
    placement.failed();
    placement.sentTo(b);
    placement.waits();
    tick();
    placement.failed();
    tick();
    expect(said).toEqual(["a:1", "not a:1", "b:1", "b:1 again", "not b:1 again"]);
    expect(timersSet()).toBe(0);
  });
});
