import type { PromptRequest } from "@kvatlas/shared/tokenization/prompt-encoder";
import { describe, expect, it } from "vitest";
import { parseRequest } from "../request/parse-request.ts";
import { tokenizeDeadlineMs, tokenizePrompt } from "./tokenize-prompt.ts";

const times = { tokenizeTimeoutMs: 25, tokenizeTimeoutMsPerKiB: 2, renderTimeoutMs: 1_000 };
const parsed = (path: string, body: object) => parseRequest(path, Buffer.from(JSON.stringify(body)));
const image = { type: "image_url", image_url: { url: "http://images/a.png" } };
const withImage = parsed("/v1/chat/completions", { messages: [{ role: "user", content: [image] }] });
const withTools = parsed("/v1/responses", { input: "hi", tools: [{ type: "function", name: "f" }] });
const plain = parsed("/v1/responses", { input: "hi" });

describe("the deadline of tokenization", () => {
  it("grows with the body, from a fixed part", () => {
    expect(tokenizeDeadlineMs({ bodyText: "" }, times, false)).toBe(25);
    expect(tokenizeDeadlineMs({ bodyText: "x".repeat(10 * 1_024) }, times, false)).toBe(45);
  });

  it("leaves a replica the time to look at images", () => {
    expect(tokenizeDeadlineMs({ bodyText: "" }, times, true)).toBe(1_000);
    expect(tokenizeDeadlineMs({ bodyText: "x".repeat(1_024 * 1_024) }, times, true)).toBe(25 + 2 * 1_024);
  });
});

describe("a prompt of which only engines can tell the tokens", () => {
  it.each([
    ["a chat with an image", withImage, "media"],
    ["tools in another API", withTools, "not-a-plain-chat"],
  ])("is left to load where engines are not to be asked, and where they cannot be: %s", async (_, request, reason) => {
    const asked: PromptRequest[] = [];
    const encoder = {
      encode: async (wanted: PromptRequest) => {
        asked.push(wanted);
        return [{ rendered: null, tokenIds: Uint32Array.of(1, 2) }];
      },
      close: async () => {},
    };
    expect(await tokenizePrompt(request, encoder, { ...times, renderTimeoutMs: 0 })).toEqual({ reason });
    expect(await tokenizePrompt(request, null, times)).toEqual({ reason: "no-tokenizer" });
    expect(asked).toEqual([]);
    expect(await tokenizePrompt(request, encoder, times)).toMatchObject({ tokenized: true });
    expect(asked).toEqual([expect.objectContaining({ engineOnly: true, bodyText: request.bodyText })]);
  });

  it("is not waited for longer than that", async () => {
    const encoder = { encode: () => new Promise<never>(() => {}), close: async () => {} };
    const waited = await tokenizePrompt(withImage, encoder, { tokenizeTimeoutMs: 1, tokenizeTimeoutMsPerKiB: 0, renderTimeoutMs: 5 });
    expect(waited).toMatchObject({ reason: "tokenize-timeout" });
  });

  it("is asked for by its own body, and the chat that another API's request is by that of the chat", async () => {
    const kinds: unknown[] = [];
    const encoder = {
      encode: async ({ kind, engineOnly }: PromptRequest) => {
        kinds.push([kind, engineOnly ?? false]);
        return [];
      },
      close: async () => {},
    };
    for (const request of [withImage, withTools, plain]) await tokenizePrompt(request, encoder, times);
    expect(kinds).toEqual([
      ["chat", true],
      ["responses", true],
      ["chat", false],
    ]);
  });
});
