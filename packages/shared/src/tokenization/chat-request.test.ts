import { describe, expect, it } from "vitest";
import { isKvatlasError } from "../errors.ts";
import { chatMessages, chatRequest } from "./chat-request.ts";
import { toJson } from "./jinja/printing.ts";
import type { JsonValue } from "./lossless-json.ts";
import { parseBody } from "./request-body.ts";

const user = '"messages": [{"role": "user", "content": "Hi"}]';

function json(value: JsonValue): string {
  return toJson(value, { ensureAscii: false, indent: null, itemSeparator: ",", keySeparator: ":", sortKeys: false });
}

function messagesOf(messages: string, format: "string" | "openai" = "string", knowsDeveloper = false): string {
  const request = chatRequest(parseBody(`{"messages": ${messages}}`), new Map());
  return json(chatMessages(request.messages, format, knowsDeveloper));
}

function codeOf(body: string): string {
  try {
    const request = chatRequest(parseBody(body), new Map());
    chatMessages(request.messages, "string", false);
  } catch (error) {
    if (isKvatlasError(error)) return error.code;
    throw error;
  }
  return "accepted";
}

describe("messages as the template sees them", () => {
  it.each([
    ["null content is empty text", '[{"role": "assistant", "content": null}]', "string", '[{"role":"assistant","content":""}]'],
    ["null content is no parts", '[{"role": "assistant", "content": null}]', "openai", '[{"role":"assistant","content":[]}]'],
    [
      "text parts are joined, empty ones dropped",
      '[{"role": "user", "content": [{"type": "text", "text": ""}, {"type": "input_text", "text": "a"}, "b"]}]',
      "string",
      '[{"role":"user","content":"a\\nb"}]',
    ],
    [
      "parts keep unknown fields in the openai format",
      '[{"role": "user", "content": [{"text": "a", "cache_control": {"x": 1}, "type": "text"}]}]',
      "openai",
      '[{"role":"user","content":[{"type":"text","text":"a","cache_control":{"x":1}}]}]',
    ],
    [
      "reasoning has two names; unknown fields go",
      '[{"role": "assistant", "content": "a", "reasoning_content": "r", "refusal": null, "zzz": 1}]',
      "string",
      '[{"role":"assistant","content":"a","reasoning":"r","reasoning_content":"r"}]',
    ],
    [
      "tool calls have declared order and parsed arguments",
      '[{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{\\"b\\": 1.0, \\"a\\": 2}"}, "index": 0, "type": "function", "id": "1"}]}]',
      "string",
      '[{"role":"assistant","content":"","tool_calls":[{"id":"1","function":{"arguments":{"b":1.0,"a":2},"name":"f"},"type":"function","index":0}]}]',
    ],
    [
      "arguments that are no object become one",
      '[{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "[1]"}, "type": "function", "id": "1"}]}]',
      "string",
      '[{"role":"assistant","content":"","tool_calls":[{"id":"1","function":{"arguments":{},"name":"f"},"type":"function"}]}]',
    ],
    [
      "results of tools are one text in either format",
      '[{"role": "tool", "tool_call_id": "1", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]',
      "openai",
      '[{"role":"tool","content":"a\\nb","tool_call_id":"1"}]',
    ],
    [
      "a billing header is cut from system texts",
      '[{"role": "system", "content": "x-anthropic-billing-header: a\\nrest"}, {"role": "user", "content": "x-anthropic-billing-header"}]',
      "string",
      '[{"role":"system","content":"rest"},{"role":"user","content":"x-anthropic-billing-header"}]',
    ],
    [
      "developer becomes system, and system messages merge in front",
      '[{"role": "user", "content": "u"}, {"role": "developer", "content": "a"}, {"role": "system", "content": "b"}]',
      "string",
      '[{"role":"system","content":"a\\n\\nb"},{"role":"user","content":"u"}]',
    ],
    [
      "a leading developer message stays alone",
      '[{"role": "developer", "content": "a", "tools": []}]',
      "string",
      '[{"role":"system","content":"a"}]',
    ],
  ] as const)("%s", (_name, messages, format, expected) => {
    expect(messagesOf(messages, format)).toBe(expected);
  });

  it("leaves developer messages to templates that know them", () => {
    expect(messagesOf('[{"role": "developer", "content": "a"}]', "string", true)).toBe('[{"role":"developer","content":"a","tools":null}]');
  });
});

describe("variables", () => {
  const variables = (body: string, defaults: ReadonlyMap<string, JsonValue> = new Map()) =>
    json(new Map(chatRequest(parseBody(body), defaults).variables));

  it("request over kwargs over defaults; null and auto never override", () => {
    const defaults = new Map<string, JsonValue>([
      ["enable_thinking", true],
      ["x", 1],
    ]);
    const body = `{${user}, "chat_template_kwargs": {"enable_thinking": null, "x": "auto", "y": 2, "add_generation_prompt": false}}`;
    expect(JSON.parse(variables(body, defaults))).toEqual({
      enable_thinking: true,
      x: 1,
      y: 2,
      add_generation_prompt: true,
      documents: null,
    });
  });

  it("reasoning_effort switches thinking unless the request says", () => {
    expect(variables(`{${user}, "reasoning_effort": "none"}`)).toContain('"enable_thinking":false');
    expect(variables(`{${user}, "reasoning_effort": "low", "chat_template_kwargs": {"enable_thinking": false}}`)).toContain(
      '"enable_thinking":false',
    );
  });

  it("tools have explicit nulls, declared order and no other fields", () => {
    const body = `{${user}, "tools": [{"vendor": 1, "function": {"zzz": 1, "parameters": {"b": 1, "a": 2}, "name": "f", "strict": false}}, {"function": {"name": "g"}}]}`;
    expect(json(chatRequest(parseBody(body), new Map()).tools)).toBe(
      '[{"type":"function","function":{"name":"f","description":null,"parameters":{"b":1,"a":2},"strict":false}},{"type":"function","function":{"name":"g","description":null,"parameters":null}}]',
    );
  });
});

describe("refused requests", () => {
  it.each([
    ["{}"],
    ["[]"],
    ['{"messages": []}'],
    ['{"messages": [{"content": "no role"}]}'],
    ['{"messages": [{"role": "user", "content": 7}]}'],
    ['{"messages": [{"role": "user", "content": [{"type": "nonsense"}]}]}'],
    ['{"messages": [{"role": "assistant", "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": {}}}]}]}'],
    [`{${user}, "tools": []}`],
    [`{${user}, "tool_choice": "required"}`],
    [`{${user}, "add_generation_prompt": null}`],
    [`{${user}, "continue_final_message": true}`],
    [`{${user}, "chat_template_kwargs": {"tokenize": true}}`],
    [`{${user}, "chat_template_kwargs": []}`],
  ])("%s", (body) => {
    expect(codeOf(body)).toBe("KVATLAS_PROMPT_INVALID");
  });

  it.each([
    ['{"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}'],
    [`{${user}, "chat_template": "x"}`],
  ])("%s is for the engine alone", (body) => {
    expect(codeOf(body)).toBe("KVATLAS_TOKENIZER_UNAVAILABLE");
  });
});
