import { describe, expect, it } from "vitest";
import { parseRequest } from "../request/parse-request.ts";
import { tokenizeDeadlineMs, tokenizePrompt } from "./tokenize-prompt.ts";

const times = { tokenizeTimeoutMs: 25, tokenizeTimeoutMsPerKiB: 2, mediaTimeoutMs: 1_000 };
const text = { form: "text", kind: "chat" } as const;
const image = { type: "image_url", image_url: { url: "http://images/a.png" } };
const withImage = parseRequest("/v1/chat/completions", Buffer.from(JSON.stringify({ messages: [{ role: "user", content: [image] }] })));

describe("the deadline of tokenization", () => {
  it("grows with the body, from a fixed part", () => {
    expect(tokenizeDeadlineMs({ bodyText: "", prompt: text }, times)).toBe(25);
    expect(tokenizeDeadlineMs({ bodyText: "x".repeat(10 * 1_024), prompt: text }, times)).toBe(45);
  });

  it("leaves a replica the time to look at images", () => {
    const prompt = { ...text, hasMedia: true };
    expect(tokenizeDeadlineMs({ bodyText: "", prompt }, times)).toBe(1_000);
    expect(tokenizeDeadlineMs({ bodyText: "x".repeat(1_024 * 1_024), prompt }, times)).toBe(25 + 2 * 1_024);
  });
});

describe("tokenizing a prompt with images", () => {
  it("asks nobody where that is off, and says why", async () => {
    const encoder = { encode: () => Promise.reject(new Error("was asked")), close: async () => {} };
    expect(await tokenizePrompt(withImage, encoder, { ...times, mediaTimeoutMs: 0 })).toEqual({ reason: "media" });
    expect(await tokenizePrompt(withImage, encoder, times)).toMatchObject({ reason: "tokenizer-failed" });
  });
});
