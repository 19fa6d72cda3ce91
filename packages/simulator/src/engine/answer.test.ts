import { describe, expect, it } from "vitest";
import { type AnswerRequest, type AnswerVocabulary, planAnswer } from "./answer.ts";

const vocabulary: AnswerVocabulary = {
  openers: [{ id: 1, text: "The" }],
  words: [
    { id: 2, text: " cat" },
    { id: 3, text: " dog" },
    { id: 4, text: " sat" },
  ],
  endOfSequence: 9,
};

function answer(change: Partial<AnswerRequest> = {}) {
  return planAnswer(
    {
      promptTokenIds: [10, 11, 12],
      choice: 0,
      maxTokens: 1000,
      minTokens: 0,
      ignoresEndOfSequence: false,
      stop: [],
      stopTokenIds: [],
      typicalTokens: 20,
      ...change,
    },
    vocabulary,
  );
}

describe("planAnswer", () => {
  it("ends by itself near the typical length, with the end-of-sequence token", () => {
    const { tokenIds, texts, finishReason, stopReason } = answer();
    expect(tokenIds.length).toBeGreaterThanOrEqual(10);
    expect(tokenIds.length).toBeLessThanOrEqual(30);
    expect([tokenIds[0], tokenIds.at(-1), texts.at(-1), finishReason, stopReason]).toEqual([1, 9, "", "stop", null]);
  });

  it("is the same for the same prompt and choice, and differs for others", () => {
    expect(answer()).toEqual(answer());
    expect(answer({ promptTokenIds: [10, 11, 13] })).not.toEqual(answer());
    expect(answer({ choice: 1 })).not.toEqual(answer());
  });

  it("is cut by max_tokens, and by that alone when the end is ignored", () => {
    const cut = answer({ maxTokens: 5 });
    expect([cut.tokenIds, cut.finishReason]).toEqual([answer().tokenIds.slice(0, 5), "length"]);
    const long = answer({ maxTokens: 200, ignoresEndOfSequence: true });
    expect([long.tokenIds.length, long.tokenIds.includes(9), long.finishReason]).toEqual([200, false, "length"]);
  });

  it("is at least min_tokens long before it ends by itself", () => {
    expect(answer({ minTokens: 90, maxTokens: 100 }).tokenIds).toHaveLength(91);
  });

  it("stops at a stop string, which is not part of the text", () => {
    const full = answer({ ignoresEndOfSequence: true, maxTokens: 200 }).texts.join("");
    const stopped = answer({ ignoresEndOfSequence: true, maxTokens: 200, stop: ["never", "t s"] });
    expect(stopped.texts.join("")).toBe(full.slice(0, full.indexOf("t s")));
    expect([stopped.finishReason, stopped.stopReason, stopped.texts.length]).toEqual(["stop", "t s", stopped.tokenIds.length]);
    const token = answer({ stopTokenIds: [3] });
    expect([token.tokenIds.at(-1), token.stopReason]).toEqual([3, 3]);
  });
});
