import { describe, expect, it } from "vitest";
import { isOfAnotherRun, nextStep } from "./sequence-tracker.ts";

describe("nextStep", () => {
  it.each([
    ["the very first batch", { live: -1, applied: -1 }, 0, { kind: "apply" }],
    ["the next batch", { live: 4, applied: 4 }, 5, { kind: "apply" }],
    ["a join at 7 with nothing known", { live: -1, applied: -1 }, 7, { kind: "gap", from: 0, to: 6 }],
    ["one missing", { live: 4, applied: 4 }, 6, { kind: "gap", from: 5, to: 5 }],
    ["a live frame that a replay brought before", { live: 4, applied: 9 }, 7, { kind: "duplicate" }],
    ["the first live frame of a new owner, applied by the former one", { live: -1, applied: 9 }, 9, { kind: "duplicate" }],
    ["numbers that begin again", { live: 9, applied: 9 }, 0, { kind: "restart" }],
    ["the same number twice on the live socket", { live: 9, applied: 9 }, 9, { kind: "restart" }],
    ["beyond a replay", { live: 4, applied: 9 }, 12, { kind: "gap", from: 10, to: 11 }],
  ] as const)("%s", (_, position, received, step) => {
    expect(nextStep(position, received)).toEqual(step);
  });
});

describe("isOfAnotherRun", () => {
  it.each([
    ["nothing to compare with", null, { seq: 3, timestampSeconds: 10 }, false],
    ["the very batch", { seq: 3, timestampSeconds: 10 }, { seq: 3, timestampSeconds: 10 }, false],
    ["the same number at another time", { seq: 3, timestampSeconds: 10 }, { seq: 3, timestampSeconds: 11 }, true],
    ["an earlier number at an earlier time", { seq: 3, timestampSeconds: 10 }, { seq: 2, timestampSeconds: 9 }, false],
    ["an earlier number at a later time", { seq: 3, timestampSeconds: 10 }, { seq: 1, timestampSeconds: 12 }, true],
    ["a later number", { seq: 3, timestampSeconds: 10 }, { seq: 4, timestampSeconds: 12 }, false],
  ])("%s", (_, mark, batch, expected) => {
    expect(isOfAnotherRun(mark, batch)).toBe(expected);
  });
});
