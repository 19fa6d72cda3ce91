import { KvatlasError } from "../errors.ts";
import { type JsonArray, type JsonObject, type JsonValue, LosslessJsonError, parseLosslessJson } from "./lossless-json.ts";

/** The engine would answer 400. */
export function promptInvalid(message: string, cause?: unknown): KvatlasError {
  return new KvatlasError("KVATLAS_PROMPT_INVALID", message, cause === undefined ? undefined : { cause });
}

/** The request is fine, but its tokens cannot be computed here. */
export function cannotEncode(message: string, cause?: unknown): KvatlasError {
  return new KvatlasError("KVATLAS_TOKENIZER_UNAVAILABLE", message, cause === undefined ? undefined : { cause });
}

/** A request body as the engine's JSON parser reads it. @throws KVATLAS_PROMPT_INVALID */
export function parseBody(bodyText: string): JsonObject {
  let value: JsonValue;
  try {
    value = parseLosslessJson(bodyText.startsWith("\ufeff") ? bodyText.slice(1) : bodyText);
  } catch (error) {
    if (error instanceof LosslessJsonError) throw promptInvalid(`the body is not JSON: ${error.message}`, error);
    throw error;
  }
  if (!(value instanceof Map)) throw promptInvalid("the body must be a JSON object");
  return value;
}

export function describe(value: JsonValue | undefined): string {
  if (value === undefined) return "nothing";
  if (value === null) return "null";
  if (Array.isArray(value)) return "an array";
  if (value instanceof Map) return "an object";
  if (typeof value === "string") return `"${value.length > 40 ? `${value.slice(0, 40)}...` : value}"`;
  return typeof value === "object" ? "a float" : String(value);
}

/** Absent and null count as the default; anything but a boolean is refused. */
export function booleanField(body: JsonObject, name: string, fallback: boolean): boolean {
  const value = body.get(name);
  if (value === undefined || value === null) return fallback;
  if (typeof value !== "boolean") throw promptInvalid(`${name} must be true or false, got ${describe(value)}`);
  return value;
}

export function objectField(body: JsonObject, name: string): JsonObject | null {
  const value = body.get(name) ?? null;
  if (value === null || value instanceof Map) return value;
  throw promptInvalid(`${name} must be an object, got ${describe(value)}`);
}

export function arrayField(body: JsonObject, name: string): JsonArray | null {
  const value = body.get(name) ?? null;
  if (value === null || Array.isArray(value)) return value;
  throw promptInvalid(`${name} must be an array, got ${describe(value)}`);
}

export function stringField(body: JsonObject, name: string): string | null {
  const value = body.get(name) ?? null;
  if (value === null || typeof value === "string") return value;
  throw promptInvalid(`${name} must be a string, got ${describe(value)}`);
}

/** A list of token ids, or null when the value is something else. */
export function tokenIdList(value: JsonValue | undefined): number[] | null {
  if (!Array.isArray(value)) return null;
  const ids: number[] = [];
  for (const id of value) {
    if (typeof id !== "number" || id < 0 || id > 0xffff_ffff) return null;
    ids.push(id);
  }
  return ids;
}
