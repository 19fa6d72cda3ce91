import { describe, expect, it } from "vitest";
import { tokenizeDeadlineMs } from "./tokenize-prompt.ts";

describe("the deadline of tokenization", () => {
  it("grows with the body, from a fixed part", () => {
    const config = { tokenizeTimeoutMs: 25, tokenizeTimeoutMsPerKiB: 2 };
    expect(tokenizeDeadlineMs({ bodyText: "" }, config)).toBe(25);
    expect(tokenizeDeadlineMs({ bodyText: "x".repeat(10 * 1_024) }, config)).toBe(45);
  });
});
