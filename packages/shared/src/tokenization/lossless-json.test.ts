import { describe, expect, it } from "vitest";
import { LosslessJsonError, parseLosslessJson } from "./lossless-json.ts";
import { floatRepr, PythonFloat } from "./python-float.ts";

describe("parseLosslessJson", () => {
  it("keeps integers exact and floats apart from them", () => {
    expect(parseLosslessJson("[1, -0, 9007199254740991, 12345678901234567890]")).toEqual([1, 0, 9007199254740991, 12345678901234567890n]);
    expect(parseLosslessJson("[1.0, 1e5, -0.0]")).toEqual([new PythonFloat(1), new PythonFloat(100000), new PythonFloat(-0)]);
  });

  it("keeps the order of keys, whatever they look like, and the last of duplicates at the first one's place", () => {
    const value = parseLosslessJson('{"b": 1, "10": 2, "9": 3, "__proto__": 4, "b": 5}');
    expect(value instanceof Map ? [...value] : value).toEqual([
      ["b", 5],
      ["10", 2],
      ["9", 3],
      ["__proto__", 4],
    ]);
  });

  it("accepts what Python accepts beside the standard", () => {
    expect(parseLosslessJson("[NaN, Infinity, -Infinity]")).toEqual([
      new PythonFloat(Number.NaN),
      new PythonFloat(Number.POSITIVE_INFINITY),
      new PythonFloat(Number.NEGATIVE_INFINITY),
    ]);
  });

  it("reads escapes", () => {
    expect(parseLosslessJson('"a\\n\\u00e9\\ud83d\\ude00\\/\\"\\\\ü"')).toBe('a\né😀/"\\ü');
  });

  it.each([
    ["", 0],
    ["{", 1],
    ["[1,]", 3],
    ['{"a" 1}', 5],
    ['"a\nb"', 2],
    ['"\\x"', 1],
    ['"\\u12"', 1],
    ["01", 1],
    ["1 2", 2],
    ["tru", 0],
    ['"open', 5],
  ])("refuses %j with the position", (text, position) => {
    expect(() => parseLosslessJson(text)).toThrow(LosslessJsonError);
    try {
      parseLosslessJson(text);
    } catch (error) {
      expect(error instanceof LosslessJsonError ? error.position : -1).toBe(position);
    }
  });

  it("bounds depth, length and digits", () => {
    expect(() => parseLosslessJson("[".repeat(100_000))).toThrow(/nested deeper/);
    expect(() => parseLosslessJson("[1, 2]", { maxLength: 3 })).toThrow(/at most 3/);
    expect(() => parseLosslessJson("9".repeat(5000))).toThrow(/digits/);
  });
});

describe("floatRepr", () => {
  it.each([
    [1, "1.0"],
    [0.1, "0.1"],
    [1e16, "1e+16"],
    [1e15, "1000000000000000.0"],
    [123456789.125, "123456789.125"],
    [1e-4, "0.0001"],
    [1e-5, "1e-05"],
    [1.5e-7, "1.5e-07"],
    [-0, "-0.0"],
    [1e100, "1e+100"],
    [Number.NaN, "nan"],
    [Number.NEGATIVE_INFINITY, "-inf"],
  ])("%d is %s", (value, text) => {
    expect(floatRepr(value)).toBe(text);
  });
});
