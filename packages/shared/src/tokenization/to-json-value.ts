import type { JsonValue } from "./lossless-json.ts";
import { PythonFloat } from "./python-float.ts";

/** A plain JavaScript value (configuration) as a lossless JSON value. Whole numbers become ints; what JSON has no form for becomes null. */
export function toJsonValue(value: unknown): JsonValue {
  if (value === null || typeof value === "string" || typeof value === "boolean" || typeof value === "bigint") return value;
  if (typeof value === "number") return Number.isSafeInteger(value) ? value : new PythonFloat(value);
  if (Array.isArray(value)) return value.map(toJsonValue);
  if (value instanceof PythonFloat) return value;
  if (typeof value === "object") return new Map(Object.entries(value).map(([key, item]) => [key, toJsonValue(item)]));
  return null;
}
