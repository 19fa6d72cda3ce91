import { describe, expect, it } from "vitest";
import { jsonFields } from "./json-fields.ts";

function valuesOf(text: string): Record<string, string> | null {
  const fields = jsonFields(text);
  return fields === null ? null : Object.fromEntries(fields.map(({ name, start, end }) => [name, text.slice(start, end)]));
}

describe("jsonFields", () => {
  it("finds values as they were written", () => {
    const text = ' {"a" : 1.0, "b":{"c":[1,"}\\"]"]} ,"\\u0064":"x\\\\","e":null,"f":[ ] }\n';
    expect(valuesOf(text)).toEqual({ a: "1.0", b: '{"c":[1,"}\\"]"]}', d: '"x\\\\"', e: "null", f: "[ ]" });
  });

  it("keeps every occurrence of a name, in order", () => {
    expect(jsonFields('{"a":1,"a":2}')?.map(({ name, start }) => [name, start])).toEqual([
      ["a", 5],
      ["a", 11],
    ]);
  });

  it.each(["[]", "1", "", "{", '{"a"}', '{"a":', '{"a":{"b":1}'])("gives null for %j", (text) => {
    expect(jsonFields(text)).toBeNull();
  });

  it("takes an empty object", () => {
    expect(jsonFields(" { } ")).toEqual([]);
  });

  it("takes long strings", () => {
    const text = JSON.stringify({ a: 'x\\"'.repeat(200_000), b: 1 });
    expect(valuesOf(text)?.b).toBe("1");
  });
});
