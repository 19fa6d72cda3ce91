import { KvatlasError } from "../errors.ts";

/** What besides the parent and the tokens can be part of a hashed tuple: text, integers, bytes, None and tuples of them. */
export type HashValue = string | number | bigint | Uint8Array | null | readonly HashValue[];

/** A tuple of extra keys as it is hashed. */
export type HashTuple = readonly HashValue[];

export function isTuple(value: HashValue): value is HashTuple {
  return Array.isArray(value);
}

/** Upper bound of the bytes a value takes in CBOR or pickle, memo marks included. */
export function encodedBound(value: HashValue): number {
  if (typeof value === "string") return 10 + value.length * 3;
  if (value === null || typeof value === "number" || typeof value === "bigint") return 12;
  if (value instanceof Uint8Array) return 10 + value.length;
  let bytes = 12;
  for (const item of value) bytes += encodedBound(item);
  return bytes;
}

/** Throws unless `value` is an integer that a signed or unsigned 64-bit field holds; fractions have no place in a hashed tuple. */
export function checkInteger(value: number | bigint): void {
  const fits =
    typeof value === "number" ? Number.isSafeInteger(value) : value >= -0x8000_0000_0000_0000n && value <= 0xffff_ffff_ffff_ffffn;
  if (!fits) throw new KvatlasError("KVATLAS_REQUEST_INVALID", `cannot hash the number ${value}: integers of at most 64 bits are allowed`);
}

export function badTokenId(id: number | undefined, position: number): KvatlasError {
  return new KvatlasError("KVATLAS_REQUEST_INVALID", `token id ${id} at position ${position} is not an integer in 0..4294967295`);
}
