import { parseLosslessJson } from "@kvatlas/shared/tokenization/lossless-json";
import { describe, expect, it } from "vitest";
import { jsonText } from "./json-text.ts";
import { messagesToChat } from "./messages-to-chat.ts";
import { responsesToChat } from "./responses-to-chat.ts";

function converted(convert: typeof messagesToChat, body: unknown): unknown {
  const value = parseLosslessJson(typeof body === "string" ? body : JSON.stringify(body));
  if (!(value instanceof Map)) throw new Error("not an object");
  const chat = convert(value);
  return chat === null ? null : JSON.parse(jsonText(chat));
}

describe("jsonText", () => {
  it("keeps floats, long integers and the order of keys", () => {
    const text = '{"b":1.0,"a":1,"2":-0.0,"1":12345678901234567890,"e":1e+30,"s":"\\"\\u00e9\\n","l":[true,null,0.5]}';
    expect(jsonText(parseLosslessJson(text))).toBe(text.replace("\\u00e9", "é"));
  });
});

describe("messagesToChat", () => {
  it("turns blocks, tools and their results into a chat", () => {
    const body = {
      model: "m",
      max_tokens: 5,
      system: [
        { type: "text", text: "Be " },
        { type: "text", text: "x-anthropic-billing-header: 1" },
        { type: "text", text: "brief.", cache_control: { type: "ephemeral" } },
      ],
      tools: [{ name: "look", description: "d", input_schema: { type: "object", properties: {} } }],
      messages: [
        { role: "user", content: "Hello" },
        {
          role: "assistant",
          content: [
            { type: "text", text: "I look." },
            { type: "tool_use", id: "t1", name: "look", input: { at: "x" } },
          ],
        },
        {
          role: "user",
          content: [
            { type: "text", text: "And" },
            {
              type: "tool_result",
              tool_use_id: "t1",
              content: [
                { type: "text", text: "one" },
                { type: "text", text: "two" },
              ],
            },
            { type: "text", text: "now?" },
          ],
        },
      ],
    };
    expect(converted(messagesToChat, body)).toEqual({
      messages: [
        { role: "system", content: "Be brief." },
        { role: "user", content: "Hello" },
        {
          role: "assistant",
          content: "I look.",
          tool_calls: [{ id: "t1", type: "function", function: { name: "look", arguments: '{"at":"x"}' } }],
        },
        { role: "tool", tool_call_id: "t1", content: "one\ntwo" },
        {
          role: "user",
          content: [
            { type: "text", text: "And" },
            { type: "text", text: "now?" },
          ],
        },
      ],
      tools: [{ type: "function", function: { name: "look", description: "d", parameters: { type: "object", properties: {} } } }],
      tool_choice: "auto",
    });
  });

  const user = [{ role: "user", content: "x" }];
  it.each([
    ["an image", { messages: [{ role: "user", content: [{ type: "image", source: {} }] }] }],
    ["a system message among the others", { messages: [{ role: "system", content: "x" }] }],
    ["thinking that the template decides on", { messages: user, thinking: { type: "disabled" } }],
    ["a salt, which not every release takes", { messages: user, cache_salt: "s" }],
    ["a tool of the server", { messages: user, tools: [{ type: "web_search_20250305", name: "web_search" }] }],
    ["a schema that the engine completes", { messages: user, tools: [{ name: "a", input_schema: {} }] }],
    ["something unknown", { messages: user, novelty: 1 }],
    ["no messages", {}],
  ])("leaves %s to the engine", (_, body) => {
    expect(converted(messagesToChat, body)).toBeNull();
  });
});

describe("responsesToChat", () => {
  it("turns instructions and texts into a chat with special tokens", () => {
    expect(converted(responsesToChat, { model: "m", instructions: "Be brief.", input: "Hello", store: false })).toEqual({
      messages: [
        { role: "system", content: "Be brief." },
        { role: "user", content: "Hello" },
      ],
      add_special_tokens: true,
    });
    const input = [
      { role: "user", content: "a" },
      { type: "message", role: "assistant", content: "b", status: "completed" },
      { role: "user", content: "c" },
    ];
    expect(converted(responsesToChat, { input })).toMatchObject({ messages: [{ content: "a" }, { content: "b" }, { content: "c" }] });
  });

  it.each([
    ["an earlier response", { input: "x", previous_response_id: "r" }],
    ["tools", { input: "x", tools: [] }],
    ["reasoning", { input: "x", reasoning: { effort: "low" } }],
    ["other items", { input: [{ type: "function_call_output", call_id: "c", output: "o" }] }],
    ["an answer to be continued", { input: [{ type: "message", role: "assistant", content: "b", status: "incomplete" }] }],
  ])("leaves %s to the engine", (_, body) => {
    expect(converted(responsesToChat, body)).toBeNull();
  });
});
