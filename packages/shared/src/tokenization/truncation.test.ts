import { describe, expect, it } from "vitest";
import { parseBody } from "./request-body.ts";
import { truncate, truncationOf } from "./truncation.ts";

const ids = Uint32Array.from([1, 10, 11, 12, 13, 2]);
const cut = (maxTokens: number, side: "left" | "right" | null, before = 1, after = 1) =>
  Array.from(truncate(ids, { maxTokens, side }, before, after));

describe("truncate", () => {
  it("keeps special tokens and cuts on the left when the request names no side", () => {
    expect(cut(4, null)).toEqual([1, 12, 13, 2]);
    expect(cut(2, null)).toEqual([1, 2]);
    expect(cut(3, null, 0, 0)).toEqual([12, 13, 2]);
  });

  it("cuts the finished list on the side the request names", () => {
    expect(cut(3, "left")).toEqual([12, 13, 2]);
    expect(cut(3, "right")).toEqual([1, 10, 11]);
  });

  it("leaves shorter prompts alone, and 0 leaves nothing", () => {
    expect(cut(6, null)).toEqual(Array.from(ids));
    expect(cut(0, null)).toEqual([]);
  });

  it("reads and checks the fields", () => {
    expect(truncationOf(parseBody("{}"))).toBeNull();
    expect(truncationOf(parseBody('{"truncate_prompt_tokens": 5, "truncation_side": "right"}'))).toEqual({ maxTokens: 5, side: "right" });
    expect(() => truncationOf(parseBody('{"truncate_prompt_tokens": 1.5}'))).toThrow(/integer/);
    expect(() => truncationOf(parseBody('{"truncation_side": "middle"}'))).toThrow(/left/);
    expect(() => truncationOf(parseBody('{"truncate_prompt_tokens": -1}'))).toThrow(/model length/);
  });
});
