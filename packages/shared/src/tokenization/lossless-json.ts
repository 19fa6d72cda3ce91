import { PythonFloat } from "./python-float.ts";

/**
 * JSON as Python's `json.loads` reads it, nothing lost: integers are `number` while safe and `bigint` beyond, floats are PythonFloat,
 * objects are Maps in source order (integer-like keys and `__proto__` included; of duplicates the last value at the first one's place).
 */
export type JsonValue = null | boolean | number | bigint | PythonFloat | string | JsonArray | JsonObject;
export type JsonArray = JsonValue[];
export type JsonObject = Map<string, JsonValue>;

export interface LosslessJsonOptions {
  /** Arrays and objects inside each other. @defaultValue 256 */
  readonly maxDepth?: number;
  /** UTF-16 code units of the text. @defaultValue 67108864 */
  readonly maxLength?: number;
}

/** Text that is not JSON, or goes past a bound. */
export class LosslessJsonError extends Error {
  override readonly name = "LosslessJsonError";
  /** UTF-16 code units from the start of the text. */
  readonly position: number;

  constructor(problem: string, position: number) {
    super(`${problem} at character ${position}`);
    this.position = position;
  }
}

/** Everything a string may hold unescaped: no quote, backslash or control character. */
const PLAIN = /[ !#-[\]-\uffff]*/y;
const NUMBER = /-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?/y;
const HEX4 = /[0-9a-fA-F]{4}/y;
const ESCAPES: Readonly<Record<string, string>> = { '"': '"', "\\": "\\", "/": "/", b: "\b", f: "\f", n: "\n", r: "\r", t: "\t" };
/** CPython refuses longer decimal integers (`sys.get_int_max_str_digits()`). */
const MAX_INTEGER_DIGITS = 4300;

/**
 * Parses like CPython's `json.loads`: NaN, Infinity and -Infinity are accepted, raw control characters in strings are not.
 *
 * @throws LosslessJsonError with the position.
 */
export function parseLosslessJson(text: string, options: LosslessJsonOptions = {}): JsonValue {
  const maxLength = options.maxLength ?? 67_108_864;
  if (text.length > maxLength) throw new LosslessJsonError(`JSON of ${text.length} characters, at most ${maxLength} are allowed,`, 0);
  const parser = new Parser(text, options.maxDepth ?? 256);
  return parser.document();
}

class Parser {
  readonly #text: string;
  readonly #maxDepth: number;
  #at = 0;

  constructor(text: string, maxDepth: number) {
    this.#text = text;
    this.#maxDepth = maxDepth;
  }

  document(): JsonValue {
    const value = this.#value(0);
    this.#space();
    if (this.#at < this.#text.length) this.#fail("unexpected text after the JSON value");
    return value;
  }

  #fail(problem: string): never {
    throw new LosslessJsonError(problem, this.#at);
  }

  #space(): void {
    for (;;) {
      const code = this.#text.charCodeAt(this.#at);
      if (code !== 0x20 && code !== 0x0a && code !== 0x0d && code !== 0x09) return;
      this.#at++;
    }
  }

  #value(depth: number): JsonValue {
    if (depth > this.#maxDepth) this.#fail(`JSON nested deeper than ${this.#maxDepth} levels`);
    this.#space();
    switch (this.#text[this.#at]) {
      case '"':
        return this.#string();
      case "{":
        return this.#object(depth);
      case "[":
        return this.#array(depth);
      case "t":
        return this.#word("true", true);
      case "f":
        return this.#word("false", false);
      case "n":
        return this.#word("null", null);
      case "N":
        return this.#word("NaN", new PythonFloat(Number.NaN));
      case "I":
        return this.#word("Infinity", new PythonFloat(Number.POSITIVE_INFINITY));
      default:
        if (this.#text.startsWith("-Infinity", this.#at)) return this.#word("-Infinity", new PythonFloat(Number.NEGATIVE_INFINITY));
        return this.#number();
    }
  }

  #word<T extends JsonValue>(word: string, value: T): T {
    if (!this.#text.startsWith(word, this.#at)) this.#fail("expected a JSON value");
    this.#at += word.length;
    return value;
  }

  #number(): JsonValue {
    NUMBER.lastIndex = this.#at;
    const match = NUMBER.exec(this.#text);
    if (match === null) this.#fail(this.#at >= this.#text.length ? "unexpected end of JSON" : "expected a JSON value");
    const [digits, fraction, exponent] = match;
    if (fraction === undefined && exponent === undefined) {
      if (digits.length > MAX_INTEGER_DIGITS) this.#fail(`integer of more than ${MAX_INTEGER_DIGITS} digits`);
      this.#at += digits.length;
      const value = Number(digits);
      // `-0` is the integer 0 in Python.
      return Number.isSafeInteger(value) ? value + 0 : BigInt(digits);
    }
    this.#at += digits.length;
    return new PythonFloat(Number(digits));
  }

  #string(): string {
    const start = this.#at + 1;
    PLAIN.lastIndex = start;
    PLAIN.test(this.#text);
    let end = PLAIN.lastIndex;
    if (this.#text[end] === '"') {
      this.#at = end + 1;
      return this.#text.slice(start, end);
    }
    let result = this.#text.slice(start, end);
    for (;;) {
      this.#at = end;
      const stop = this.#text[end];
      if (stop === '"') {
        this.#at = end + 1;
        return result;
      }
      if (stop === undefined) this.#fail("unterminated string");
      if (stop !== "\\") this.#fail("control character in a string");
      const code = this.#text[end + 1];
      if (code === "u") {
        HEX4.lastIndex = end + 2;
        const hex = HEX4.exec(this.#text);
        if (hex === null) this.#fail("broken \\u escape");
        result += String.fromCharCode(Number.parseInt(hex[0], 16));
        end += 6;
      } else {
        const plain = code === undefined ? undefined : ESCAPES[code];
        if (plain === undefined) this.#fail("unknown escape");
        result += plain;
        end += 2;
      }
      PLAIN.lastIndex = end;
      PLAIN.test(this.#text);
      result += this.#text.slice(end, PLAIN.lastIndex);
      end = PLAIN.lastIndex;
    }
  }

  #array(depth: number): JsonArray {
    const items: JsonArray = [];
    this.#at++;
    this.#space();
    if (this.#text[this.#at] === "]") {
      this.#at++;
      return items;
    }
    for (;;) {
      items.push(this.#value(depth + 1));
      this.#space();
      const next = this.#text[this.#at];
      if (next !== "," && next !== "]") this.#fail("expected , or ]");
      this.#at++;
      if (next === "]") return items;
    }
  }

  #object(depth: number): JsonObject {
    const entries: JsonObject = new Map();
    this.#at++;
    this.#space();
    if (this.#text[this.#at] === "}") {
      this.#at++;
      return entries;
    }
    for (;;) {
      this.#space();
      if (this.#text[this.#at] !== '"') this.#fail("expected a key in double quotes");
      const key = this.#string();
      this.#space();
      if (this.#text[this.#at] !== ":") this.#fail("expected :");
      this.#at++;
      entries.set(key, this.#value(depth + 1));
      this.#space();
      const next = this.#text[this.#at];
      if (next !== "," && next !== "}") this.#fail("expected , or }");
      this.#at++;
      if (next === "}") return entries;
    }
  }
}
