import { describe, expect, it } from "vitest";
import { promptTextOf } from "./prompt-text.ts";

const chat = (...contents: unknown[]) => ({ messages: contents.map((content) => ({ role: "user", content })) });

describe("promptTextOf", () => {
  it.each<[string, Record<string, unknown>, string]>([
    ["a chat", chat("one", "two"), "user\none\nuser\ntwo"],
    ["content parts", chat([{ type: "text", text: "one" }, "two"]), "user\none\ntwo"],
    ["system and tools in front", { tools: [{ a: 1 }], system: "be", ...chat("x") }, '[{"a":1}]\nbe\nuser\nx'],
    ["a completion", { prompt: "text" }, "text"],
    ["several inputs", { input: ["a", "b"] }, "a\nb"],
    ["nothing to read", { model: "m", messages: null }, ""],
    ["strange values", { messages: [7, null, { content: { a: null } }, []] }, '7\n\n\n{"a":null}\n'],
  ])("%s", (_name, json, text) => {
    expect(promptTextOf(json)).toBe(text);
  });

  it("begins alike for chats that begin alike", () => {
    expect(promptTextOf(chat("one", "two", "three")).startsWith(promptTextOf(chat("one", "two")))).toBe(true);
  });
});
