import type { JsonValue } from "@kvatlas/shared/tokenization/lossless-json";

/** JSON text of a value that was read without loss: what was a float stays one, and keys keep their order. */
export function jsonText(value: JsonValue): string {
  if (value === null || typeof value === "boolean" || typeof value === "number" || typeof value === "bigint") return String(value);
  if (typeof value === "string") return JSON.stringify(value);
  if (Array.isArray(value)) return `[${value.map(jsonText).join(",")}]`;
  if (value instanceof Map) return `{${[...value].map(([key, child]) => `${JSON.stringify(key)}:${jsonText(child)}`).join(",")}}`;
  return floatText(value.value);
}

function floatText(value: number): string {
  const text = Object.is(value, -0) ? "-0" : String(value);
  return /^-?\d+$/.test(text) ? `${text}.0` : text;
}
