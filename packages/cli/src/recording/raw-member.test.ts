import { describe, expect, it } from "vitest";
import { rawMember } from "./raw-member.ts";

describe("rawMember", () => {
  it.each([
    ['{"a": 1, "body": {"x": 1.0, "2": [], "1": "}"}, "c": 2}', '{"x": 1.0, "2": [], "1": "}"}'],
    ['{"body":"a\\\\\\"}{","z":{"body":1}}', '"a\\\\\\"}{"'],
    ['{"z":{"body":1},"b\\u006fdy" : -1e400 }', "-1e400"],
    ['{"body":1,"body":[{"a":["]"]}]}', '[{"a":["]"]}]'],
    ['{"t": 1.5, "body":null}', "null"],
  ])("finds the body of %s as it is written", (json, text) => {
    expect(rawMember(json, "body")).toBe(text);
  });

  it.each(["{}", '{"a":{"body":1}}', '{"a":"body"}'])("answers null for %s", (json) => {
    expect(rawMember(json, "body")).toBeNull();
  });
});
