import { describe, expect, it } from "vitest";
import { HttpError } from "./openai-error.ts";
import { parseDryRun, parseRequest } from "./parse-request.ts";

const bytes = (value: unknown) => Buffer.from(typeof value === "string" ? value : JSON.stringify(value));
const idsOf = (path: string, body: object) => {
  const { prompt } = parseRequest(path, bytes(body));
  return prompt.form === "ids" ? prompt.prompts.map(({ tokenIds }) => [...tokenIds]) : prompt;
};

describe("parseRequest", () => {
  it("reads what routing needs, and keeps the text as it is", () => {
    const text = '{"model":"m", "stream":true, "cache_salt":"s", "messages":[{"role":"user","content":"hi"}], "seed":12345678901234567890}';
    expect(parseRequest("/v1/chat/completions", bytes(text))).toMatchObject({
      model: "m",
      stream: true,
      prompt: { form: "text", kind: "chat" },
      cacheSalt: "s",
      bodyText: text,
    });
  });

  it.each([
    [{ prompt: [1, 2, 3] }, [[1, 2, 3]]],
    [{ prompt: [[1], [2, 3]] }, [[1], [2, 3]]],
    [{ prompt: [1, 2, 3, 4], truncate_prompt_tokens: 2 }, [[3, 4]]],
    [{ prompt: [1, 2, 3, 4], truncate_prompt_tokens: 3, truncation_side: "right" }, [[1, 2, 3]]],
    [{ prompt: [1, 2, 3, 4], truncate_prompt_tokens: -1 }, [[1, 2, 3, 4]]],
    [{ prompt: [1, -2] }, { form: "text", kind: "completion" }],
    [{ prompt: [1, 2.5] }, { form: "text", kind: "completion" }],
    [{ prompt: [] }, { form: "text", kind: "completion" }],
    [{ prompt: ["a", "b"] }, { form: "text", kind: "completion" }],
    [
      { prompt: "a", prompt_embeds: "x" },
      { form: "none", why: "prompt-embeds" },
    ],
    [
      { prompt: "a", prompt_logprobs: 1 },
      { form: "none", why: "skips-cache" },
    ],
    [
      { prompt: "a", echo: true, logprobs: 1 },
      { form: "none", why: "skips-cache" },
    ],
  ])("knows the forms of a completion prompt: %j", (body, expected) => {
    expect(idsOf("/v1/completions", body)).toEqual(expected);
  });

  it.each([
    [{ messages: [{ role: "user", content: [{ type: "text", text: "a" }] }] }, { form: "text", kind: "chat" }],
    [{ messages: [{ role: "user", content: [{ type: "image_url", image_url: {} }] }] }, { form: "text", kind: "chat", hasMedia: true }],
    [
      { messages: [{ role: "user", content: [{ type: "image_url", image_url: {} }] }], kv_transfer_params: { prompt_token_ids: [7, 8] } },
      { form: "text", kind: "chat", hasMedia: true },
    ],
    [{ messages: [], kv_transfer_params: { prompt_token_ids: [7, 8] } }, [[7, 8]]],
    [{ messages: "nonsense" }, { form: "text", kind: "chat" }],
  ])("knows the forms of a chat: %j", (body, expected) => {
    expect(idsOf("/v1/chat/completions", body)).toEqual(expected);
  });

  it.each([
    [undefined, { form: "ids", prompts: [{ tokenIds: Uint32Array.of(5, 6, 7) }] }],
    [null, { form: "ids", prompts: [{ tokenIds: Uint32Array.of(5, 6, 7) }] }],
    [
      {
        mm_hashes: { image: ["b", "a"], audio: ["c"] },
        mm_placeholders: {
          image: [
            { offset: 2, length: 1 },
            { offset: 0, length: 1 },
          ],
          audio: [{ offset: 1, length: 1 }],
        },
        kwargs_data: null,
      },
      {
        form: "ids",
        prompts: [
          {
            tokenIds: Uint32Array.of(5, 6, 7),
            media: [
              { identifier: "a", offset: 0, length: 1 },
              { identifier: "c", offset: 1, length: 1 },
              { identifier: "b", offset: 2, length: 1 },
            ],
          },
        ],
      },
    ],
    [
      { mm_hashes: { image: ["a"] }, mm_placeholders: { image: [] } },
      { form: "none", why: "media" },
    ],
    [
      { mm_hashes: { image: ["a"] }, mm_placeholders: { image: [{ offset: -1, length: 1 }] } },
      { form: "none", why: "media" },
    ],
    [
      { mm_hashes: { image: Array(600).fill("a") }, mm_placeholders: { image: Array(600).fill({ offset: 0, length: 1 }) } },
      { form: "none", why: "media" },
    ],
    [
      { mm_hashes: { image: ["a".repeat(1_025)] }, mm_placeholders: { image: [{ offset: 0, length: 1 }] } },
      { form: "none", why: "media" },
    ],
    ["nonsense", { form: "none", why: "media" }],
  ])("reads the images of a prompt of ids: %j", (features, expected) => {
    expect(parseRequest("/inference/v1/generate", bytes({ token_ids: [5, 6, 7], features })).prompt).toEqual(expected);
  });

  it("leaves other paths to load", () => {
    expect(parseRequest("/v1/embeddings", bytes({ model: "m", input: "x" })).prompt).toEqual({ form: "none", why: "not-a-prompt" });
  });

  it.each(["{", "[]", "null", '"text"', '{"a":1}{'])("refuses %s", (text) => {
    expect(() => parseRequest("/v1/completions", bytes(text))).toThrow(HttpError);
  });

  it("is not fooled by names of the prototype", () => {
    expect(parseRequest("/v1/completions", bytes('{"__proto__": {"model": "x"}, "prompt": "a"}')).model).toBeNull();
  });
});

describe("parseDryRun", () => {
  it("tells the kind by the fields", () => {
    expect(parseDryRun(bytes({ token_ids: [1] })).prompt).toMatchObject({ form: "ids" });
    expect(parseDryRun(bytes({ messages: [] })).prompt).toEqual({ form: "text", kind: "chat" });
    expect(parseDryRun(bytes({ prompt: "x" })).prompt).toEqual({ form: "text", kind: "completion" });
    expect(() => parseDryRun(bytes({ model: "m" }))).toThrow(/token_ids, messages or prompt/);
    expect(() => parseDryRun(bytes({ token_ids: ["a"] }))).toThrow(/token_ids/);
  });
});
