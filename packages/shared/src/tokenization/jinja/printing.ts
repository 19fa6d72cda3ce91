import { floatRepr, PythonFloat } from "../python-float.ts";
import { DictView, Markup, TemplateRaised, TemplateUnsupported, Tuple, typeName, Undefined, type Value } from "./values.ts";

/** Python's `str(value)`: what `{{ value }}` prints. */
export function str(value: Value): string {
  if (typeof value === "string") return value;
  if (value instanceof Undefined) return "";
  if (value instanceof Markup) return value.text;
  return repr(value);
}

/** Python's `repr(value)`. */
export function repr(value: Value): string {
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (typeof value === "number" || typeof value === "bigint") return String(value);
  if (typeof value === "string") return stringRepr(value);
  if (value instanceof PythonFloat) return floatRepr(value.value);
  if (Array.isArray(value)) return `[${value.map(repr).join(", ")}]`;
  if (value instanceof Map) return `{${[...value].map(([key, item]) => `${repr(key)}: ${repr(item)}`).join(", ")}}`;
  if (value instanceof Tuple)
    return value.items.length === 1 ? `(${value.items.map(repr).join("")},)` : `(${value.items.map(repr).join(", ")})`;
  if (value instanceof Undefined) return "Undefined";
  if (value instanceof DictView) return `${value.kind}(${repr([...value.items])})`;
  throw new TemplateUnsupported(`printing a ${typeName(value)}`);
}

const NEEDS_ESCAPE = /[\\'\p{C}\p{Z}]/u;

function stringRepr(text: string): string {
  const quote = text.includes("'") && !text.includes('"') ? '"' : "'";
  if (!NEEDS_ESCAPE.test(text.replaceAll(" ", ""))) return `${quote}${text}${quote}`;
  let result = quote;
  for (const char of text) {
    if (char === "\\" || char === quote) result += `\\${char}`;
    else if (char === "\n") result += "\\n";
    else if (char === "\r") result += "\\r";
    else if (char === "\t") result += "\\t";
    else if (char !== " " && /[\p{C}\p{Z}]/u.test(char)) result += numericEscape(char.codePointAt(0) ?? 0);
    else result += char;
  }
  return result + quote;
}

function numericEscape(code: number): string {
  if (code <= 0xff) return `\\x${code.toString(16).padStart(2, "0")}`;
  return code <= 0xffff ? `\\u${code.toString(16).padStart(4, "0")}` : `\\U${code.toString(16).padStart(8, "0")}`;
}

export interface JsonOptions {
  readonly ensureAscii: boolean;
  /** One level of indentation; null: one line. */
  readonly indent: string | null;
  readonly itemSeparator: string;
  readonly keySeparator: string;
  readonly sortKeys: boolean;
}

/** Python's `json.dumps`, which is what transformers' `tojson` filter calls. */
export function toJson(value: Value, options: JsonOptions, depth = 0): string {
  if (value === null) return "null";
  if (typeof value === "boolean") return value ? "true" : "false";
  if (typeof value === "number" || typeof value === "bigint") return String(value);
  if (typeof value === "string") return jsonString(value, options.ensureAscii);
  if (value instanceof Markup) return jsonString(value.text, options.ensureAscii);
  if (value instanceof PythonFloat) return jsonFloat(value.value);
  if (Array.isArray(value) || value instanceof Tuple) {
    const items = Array.isArray(value) ? value : value.items;
    return wrap(
      items.map((item) => toJson(item, options, depth + 1)),
      ["[", "]"],
      options,
      depth,
    );
  }
  if (value instanceof Map) {
    let entries = [...value].map(([key, item]): [string, Value] => [typeof key === "string" ? key : jsonKey(key), item]);
    if (options.sortKeys) {
      if ([...value.keys()].some((key) => typeof key !== "string"))
        throw new TemplateUnsupported("tojson with sort_keys and keys that are no strings");
      entries = entries.sort(([a], [b]) => compareCodePoints(a, b));
    }
    return wrap(
      entries.map(([key, item]) => jsonString(key, options.ensureAscii) + options.keySeparator + toJson(item, options, depth + 1)),
      ["{", "}"],
      options,
      depth,
    );
  }
  throw new TemplateRaised(`Object of type ${typeName(value)} is not JSON serializable`);
}

function wrap(parts: readonly string[], [open, close]: readonly [string, string], options: JsonOptions, depth: number): string {
  if (parts.length === 0) return open + close;
  if (options.indent === null) return open + parts.join(options.itemSeparator) + close;
  const inner = `\n${options.indent.repeat(depth + 1)}`;
  return `${open}${inner}${parts.join(options.itemSeparator + inner)}\n${options.indent.repeat(depth)}${close}`;
}

function jsonKey(key: number | bigint | boolean | null): string {
  if (key === null) return "null";
  return String(key);
}

function jsonFloat(value: number): string {
  if (Number.isNaN(value)) return "NaN";
  if (!Number.isFinite(value)) return value > 0 ? "Infinity" : "-Infinity";
  return floatRepr(value);
}

const SHORT_ESCAPES: Readonly<Record<string, string>> = {
  '"': '\\"',
  "\\": "\\\\",
  "\n": "\\n",
  "\r": "\\r",
  "\t": "\\t",
  "\f": "\\f",
  "\b": "\\b",
};
/** Quote, backslash and everything below the space. */
const TO_ESCAPE = /["\\]|[^ -\uffff]/g;
const TO_ESCAPE_ASCII = /["\\]|[^ -~]/g;

function jsonString(text: string, ensureAscii: boolean): string {
  const escaped = text.replace(
    ensureAscii ? TO_ESCAPE_ASCII : TO_ESCAPE,
    (char) => SHORT_ESCAPES[char] ?? `\\u${char.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );
  return `"${escaped}"`;
}

/** Order of Python strings: by code point, not by UTF-16 unit. */
export function compareCodePoints(a: string, b: string): number {
  const length = Math.min(a.length, b.length);
  for (let i = 0; i < length; i++) {
    const x = a.charCodeAt(i);
    const y = b.charCodeAt(i);
    if (x !== y) {
      // A surrogate stands for a code point above every BMP character.
      const xAstral = x >= 0xd800 && x <= 0xdfff;
      const yAstral = y >= 0xd800 && y <= 0xdfff;
      return xAstral === yAstral ? x - y : xAstral ? 1 : -1;
    }
  }
  return a.length - b.length;
}
