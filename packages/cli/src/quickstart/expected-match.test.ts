import { describe, expect, it } from "vitest";
import { expectedMatch } from "./expected-match.ts";

const tokens = (n: number) => Array.from({ length: n }, (_, i) => i);

describe("expectedMatch", () => {
  it.each([
    ["full blocks of the common prefix", tokens(10), tokens(20), 8],
    ["nothing below one block", tokens(3), tokens(20), 0],
    ["not the block of the last prompt token", tokens(20), tokens(12), 8],
    ["a prompt that ends one token later", tokens(20), tokens(13), 12],
    ["up to the first difference", tokens(20), [...tokens(7), 99, ...tokens(20)], 4],
    ["nothing of an empty prompt", tokens(20), [], 0],
  ])("counts %s", (_, computed, roundTwo, expected) => {
    expect(expectedMatch(computed, roundTwo, 4)).toBe(expected);
  });
});
