import { describe, expect, it } from "vitest";
import type { HttpLine, RequestLine } from "./recording-line.ts";
import { renderedFor, renderedPrompts } from "./rendered-prompts.ts";

const answer = (path: string, request: unknown, body: unknown, status = 200): HttpLine => ({
  kind: "http",
  line: 1,
  atMs: 0,
  engine: "e0",
  method: "POST",
  path,
  status,
  request,
  requestText: JSON.stringify(request),
  body,
});

const request = (path: string, body: Readonly<Record<string, unknown>>): RequestLine => ({
  kind: "request",
  line: 1,
  atMs: 0,
  id: "r1",
  engine: "e0",
  path,
  body,
  bodyText: JSON.stringify(body),
  headers: {},
  concurrent: null,
});

describe("rendered prompts", () => {
  const rendered = renderedPrompts([
    answer("/v1/messages/render", { model: "m", messages: [{ role: "user" }], max_tokens: 4 }, { token_ids: [1, 2] }),
    answer("/v1/completions/render", { prompt: ["a", "b"] }, [{ token_ids: [1] }, { token_ids: [2] }]),
    answer("/tokenize", { prompt: "a" }, { tokens: [1] }),
    answer("/tokenize", { prompt: "b" }, { tokens: [1] }, 400),
    answer("/v1/models", {}, { tokens: [1] }),
    answer("/v1/completions/render", { prompt: ["a", "b"] }, [{ token_ids: [1] }, null]),
  ]);

  it("are what engines answered without generating", () => {
    expect(rendered.map(({ tokenIds }) => tokenIds)).toEqual([[[1, 2]], [[1], [2]], [[1]]]);
  });

  it("belong to requests that differ in generation only", () => {
    const messages = { messages: [{ role: "user" }], model: "m" };
    expect(renderedFor(request("/v1/messages", { ...messages, temperature: 0, max_tokens: 9 }), rendered)).toEqual([[1, 2]]);
    expect(renderedFor(request("/v1/messages", { ...messages, system: "x" }), rendered)).toBeNull();
    expect(renderedFor(request("/v1/chat/completions", messages), rendered)).toBeNull();
  });
});
