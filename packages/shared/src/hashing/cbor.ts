import { badTokenId, checkInteger, type HashValue, isTuple } from "./hash-value.ts";
import { writeHex } from "./scratch.ts";

/**
 * The canonical CBOR (RFC 8949 section 4.2, shortest heads) of vLLM's hashed tuple `(parent, tokens, extras)`, as `cbor2.dumps(x, canonical=True)`
 * writes it (vLLM `utils/hashing.py`). Every function writes at `at` and returns the offset after what it wrote; the caller provides the room.
 */

const majorUint = 0x00;
const majorNegative = 0x20;
const majorBytes = 0x40;
const majorText = 0x60;
const majorArray = 0x80;
const simpleNull = 0xf6;

function writeHead(buffer: Buffer, at: number, major: number, value: number): number {
  if (value < 24) {
    buffer[at] = major | value;
    return at + 1;
  }
  if (value < 0x100) {
    buffer[at] = major | 24;
    buffer[at + 1] = value;
    return at + 2;
  }
  if (value < 0x1_0000) {
    buffer[at] = major | 25;
    buffer[at + 1] = value >>> 8;
    buffer[at + 2] = value;
    return at + 3;
  }
  if (value < 0x1_0000_0000) {
    buffer[at] = major | 26;
    buffer.writeUInt32BE(value, at + 1);
    return at + 5;
  }
  return writeHead64(buffer, at, major, BigInt(value));
}

function writeHead64(buffer: Buffer, at: number, major: number, value: bigint): number {
  if (value < 0x1_0000_0000n) return writeHead(buffer, at, major, Number(value));
  buffer[at] = major | 27;
  buffer.writeBigUInt64BE(value, at + 1);
  return at + 9;
}

/** Opens the hashed tuple. */
export function writeCborTupleHead(buffer: Buffer, at: number, items: number): number {
  return writeHead(buffer, at, majorArray, items);
}

/** Head of a byte string whose bytes the caller writes. */
export function writeCborBytesHead(buffer: Buffer, at: number, length: number): number {
  return writeHead(buffer, at, majorBytes, length);
}

/** An unsigned integer given as 16 hex digits. */
export function writeCborUint64(buffer: Buffer, at: number, digits: string): number {
  if (digits.startsWith("00000000")) return writeHead(buffer, at, majorUint, Number.parseInt(digits, 16));
  buffer[at] = majorUint | 27;
  return writeHex(buffer, at + 1, digits);
}

/** `tokenIds[from..to)` as an array. */
export function writeCborTokens(buffer: Buffer, at: number, tokenIds: ArrayLike<number>, from: number, to: number): number {
  let end = writeHead(buffer, at, majorArray, to - from);
  for (let i = from; i < to; i++) {
    const id = tokenIds[i];
    if (id === undefined || id >>> 0 !== id) throw badTokenId(id, i);
    // The heads of `writeHead`, inlined: this loop is the hot path.
    if (id < 24) buffer[end++] = id;
    else if (id < 0x100) {
      buffer[end++] = 0x18;
      buffer[end++] = id;
    } else if (id < 0x1_0000) {
      buffer[end++] = 0x19;
      buffer[end++] = id >>> 8;
      buffer[end++] = id;
    } else {
      buffer[end++] = 0x1a;
      buffer[end++] = id >>> 24;
      buffer[end++] = id >>> 16;
      buffer[end++] = id >>> 8;
      buffer[end++] = id;
    }
  }
  return end;
}

export function writeCborValue(buffer: Buffer, at: number, value: HashValue): number {
  if (value === null) {
    buffer[at] = simpleNull;
    return at + 1;
  }
  if (typeof value === "string") {
    const length = Buffer.byteLength(value, "utf8");
    const start = writeHead(buffer, at, majorText, length);
    return start + buffer.write(value, start, "utf8");
  }
  if (typeof value === "number") {
    checkInteger(value);
    return value < 0 ? writeHead(buffer, at, majorNegative, -1 - value) : writeHead(buffer, at, majorUint, value);
  }
  if (typeof value === "bigint") {
    checkInteger(value);
    return value < 0n ? writeHead64(buffer, at, majorNegative, -1n - value) : writeHead64(buffer, at, majorUint, value);
  }
  if (isTuple(value)) {
    let end = writeHead(buffer, at, majorArray, value.length);
    for (const item of value) end = writeCborValue(buffer, end, item);
    return end;
  }
  const start = writeHead(buffer, at, majorBytes, value.length);
  buffer.set(value, start);
  return start + value.length;
}
