import { describe, expect, it } from "vitest";
import { parseSendLine } from "./send-lines.ts";

describe("parseSendLine", () => {
  it.each([
    ['{"messages": [], "a": 1.0}', "/v1/chat/completions"],
    ['{"prompt": "x"}', "/v1/completions"],
    ['{"input": "x"}', "/v1/responses"],
    ['{"token_ids": [1]}', "/inference/v1/generate"],
  ])("tells the path of %s and keeps its text", (text, path) => {
    expect(parseSendLine(text)).toEqual({ path, bodyText: text, headers: {} });
  });

  it("keeps the text of a body that comes with path and headers", () => {
    const text = '{"path": "/v1/messages", "headers": {"x-data-parallel-rank": 1}, "body": {"z": 1e2, "messages": []}}';
    expect(parseSendLine(text)).toEqual({
      path: "/v1/messages",
      bodyText: '{"z": 1e2, "messages": []}',
      headers: { "x-data-parallel-rank": "1" },
    });
  });

  it.each([
    ["{", "not JSON"],
    ["[]", "not a JSON object"],
    ["{}", 'no "body", and none of messages, prompt, input, token_ids by which to tell the path'],
    ['{"body": {}, "path": 3}', 'path is 3, expected one that begins with "/"'],
  ])("refuses %s", (text, problem) => {
    expect(parseSendLine(text)).toBe(problem);
  });
});
