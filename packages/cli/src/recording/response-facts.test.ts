import { describe, expect, it } from "vitest";
import type { ResponseLine } from "./recording-line.ts";
import { responseFacts } from "./response-facts.ts";

const response = (body: unknown, sse: string | null = null): ResponseLine => ({
  kind: "response",
  line: 1,
  atMs: 0,
  id: "r1",
  status: 200,
  body,
  sse,
});

describe("responseFacts", () => {
  it("reads a chat answer", () => {
    const body = {
      prompt_token_ids: [1, 2, 3],
      choices: [{ index: 0 }],
      usage: { prompt_tokens: 3, prompt_tokens_details: { cached_tokens: 2 } },
    };
    expect(responseFacts(response(body), 1)).toEqual({ hasUsage: true, cachedTokens: 2, promptTokens: 3, promptTokenIds: [[1, 2, 3]] });
  });

  it("reads each prompt of a list once, whatever n is", () => {
    const choices = [0, 1, 2, 3].map((index) => ({ index, prompt_token_ids: index < 2 ? [1] : [2, 3] }));
    expect(responseFacts(response({ choices, usage: { prompt_tokens: 3, prompt_tokens_details: null } }), 2)).toEqual({
      hasUsage: true,
      cachedTokens: null,
      promptTokens: 3,
      promptTokenIds: [[1], [2, 3]],
    });
  });

  it("puts a stream together", () => {
    const chunks = [
      { prompt_token_ids: [5, 6], choices: [{ index: 0, delta: {} }] },
      { choices: [], usage: { prompt_tokens: 2, prompt_tokens_details: { cached_tokens: 0 } } },
    ];
    const sse = `${chunks.map((chunk) => `data: ${JSON.stringify(chunk)}\n\n`).join("")}data: [DONE]\n\n`;
    expect(responseFacts(response(null, sse), 1)).toEqual({ hasUsage: true, cachedTokens: 0, promptTokens: 2, promptTokenIds: [[5, 6]] });
  });

  it("adds up Anthropic's parts and finds usage inside events", () => {
    const usage = { input_tokens: 10, cache_read_input_tokens: 32, cache_creation_input_tokens: 0 };
    const facts = { hasUsage: true, cachedTokens: 32, promptTokens: 42, promptTokenIds: null };
    expect(responseFacts(response({ usage }), 1)).toEqual(facts);
    expect(responseFacts(response(null, `event: message_start\ndata: ${JSON.stringify({ message: { usage } })}\n\n`), 1)).toEqual(facts);
  });

  it("says when nothing is there", () => {
    const nothing = { hasUsage: false, cachedTokens: null, promptTokens: null, promptTokenIds: null };
    expect(responseFacts(response("busy"), 1)).toEqual(nothing);
    expect(responseFacts(response(null, 'data: {"choices":[{"index"'), 1)).toEqual(nothing);
  });
});
