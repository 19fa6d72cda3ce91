import { describe, expect, it } from "vitest";
import { tokenizeBody } from "./engine-body.ts";

describe("tokenizeBody", () => {
  it("passes on what /tokenize reads, as it was written", () => {
    const bodyText = '{"model":"m","messages":[{"role":"user","content":"a"}],"temperature":0.5,"tools":[{"x":1.0}],"stream":true}';
    expect(tokenizeBody({ kind: "chat", bodyText })).toBe('{"model":"m","messages":[{"role":"user","content":"a"}],"tools":[{"x":1.0}]}');
  });

  it("gives what /tokenize does not know to the template", () => {
    const bodyText = '{"messages":[],"reasoning_effort":"low","documents":[{}],"chat_template_kwargs":{"a":1}}';
    expect(JSON.parse(tokenizeBody({ kind: "chat", bodyText }))).toEqual({
      messages: [],
      chat_template_kwargs: { a: 1, reasoning_effort: "low", documents: [{}], enable_thinking: true },
    });
  });

  it("lets a request's own enable_thinking stand", () => {
    const bodyText = '{"messages":[],"reasoning_effort":"none","chat_template_kwargs":{"enable_thinking":true}}';
    expect(JSON.parse(tokenizeBody({ kind: "chat", bodyText })).chat_template_kwargs).toMatchObject({ enable_thinking: true });
  });

  it("asks for one completion", () => {
    expect(tokenizeBody({ kind: "completion", bodyText: '{"prompt":"x","max_tokens":1}' })).toBe('{"prompt":"x"}');
  });

  it.each([
    ["completion", '{"prompt":["a","b"]}'],
    ["completion", '{"prompt":"a","suffix":"b"}'],
    ["chat", '{"messages":[],"truncate_prompt_tokens":3}'],
    ["chat", '{"messages":[{"role":"assistant","reasoning_content":"x"}]}'],
  ] as const)("refuses a %s it cannot express: %s", (kind, bodyText) => {
    expect(() => tokenizeBody({ kind, bodyText })).toThrow(expect.objectContaining({ code: "KVATLAS_TOKENIZER_UNAVAILABLE" }));
  });
});
