import { badTokenId, checkInteger, type HashTuple, type HashValue, isTuple } from "./hash-value.ts";
import { writeHex } from "./scratch.ts";

/** Opcode and 8-byte length. */
const frameHeadLength = 9;
/** CPython closes a frame before the first value that begins this many bytes into it, and leaves longer strings outside frames. */
const frameTargetLength = 65_536;
/** The tag of a media item: one string object in vLLM's code, hence a memo reference from its second use in a tuple on. */
const sharedTag = "mm";

/**
 * Writes pickle protocol 5 exactly as CPython's C pickler does for vLLM's hashed tuple `(parent, tokens, extras)` (vLLM
 * `utils/hashing.py`, `pickle.dumps(x, protocol=HIGHEST_PROTOCOL)`; the same bytes in CPython 3.8 to 3.13).
 *
 * One pickle: `begin`, the values, `end`. The caller provides the room. Every string is taken to be an object of its own, but for the tag
 * "mm" of a media item's 3-tuple, which vLLM repeats as one object.
 */
export class PickleWriter {
  #buffer: Buffer;
  #at = 0;
  #frameStart = 0;
  #memos = 0;
  #tagMemo = -1;

  constructor(buffer: Buffer) {
    this.#buffer = buffer;
  }

  begin(buffer: Buffer): void {
    this.#buffer = buffer;
    buffer[0] = 0x80;
    buffer[1] = 5;
    this.#at = 2;
    this.#memos = 0;
    this.#tagMemo = -1;
    this.#openFrame();
  }

  /** Ends the pickle; returns its length. */
  end(): number {
    this.#put(0x2e);
    this.#closeFrame();
    return this.#at;
  }

  /** A byte string given in hex digits. */
  hexBytes(digits: string): void {
    this.#put(0x43, digits.length / 2);
    this.#at = writeHex(this.#buffer, this.#at, digits);
    this.#memoize();
  }

  value(value: HashValue): void {
    this.#boundary();
    if (value === null) this.#put(0x4e);
    else if (typeof value === "string") this.#string(value);
    else if (typeof value === "number" || typeof value === "bigint") this.#integer(value);
    else if (isTuple(value)) this.#tuple(value);
    else this.#blob(value, 0x43, 0x42);
  }

  /** `tokenIds[from..to)` as a tuple. */
  tokens(tokenIds: ArrayLike<number>, from: number, to: number): void {
    this.#boundary();
    if (to - from > 3) this.#put(0x28);
    const buffer = this.#buffer;
    const framed = this.#at - this.#frameStart + (to - from) * 10 < frameTargetLength;
    for (let i = from; i < to; i++) {
      const id = tokenIds[i];
      if (id === undefined || id >>> 0 !== id) throw badTokenId(id, i);
      if (!framed) this.#boundary();
      const at = this.#at;
      if (id < 0x100) {
        buffer[at] = 0x4b;
        buffer[at + 1] = id;
        this.#at = at + 2;
      } else if (id < 0x1_0000) {
        buffer[at] = 0x4d;
        buffer[at + 1] = id;
        buffer[at + 2] = id >>> 8;
        this.#at = at + 3;
      } else if (id < 0x8000_0000) {
        buffer[at] = 0x4a;
        buffer[at + 1] = id;
        buffer[at + 2] = id >>> 8;
        buffer[at + 3] = id >>> 16;
        buffer[at + 4] = id >>> 24;
        this.#at = at + 5;
      } else this.#integer(id);
    }
    this.closeTuple(to - from);
  }

  /** Closes a tuple of `length` items, at least one, that have been written; from 4 on, a mark (0x28) stands before them. */
  closeTuple(length: number): void {
    this.#put(length > 3 ? 0x74 : 0x84 + length);
    this.#memoize();
  }

  #tuple(items: HashTuple): void {
    if (items.length > 3) this.#put(0x28);
    items.forEach((item, index) => {
      if (index !== 0 || item !== sharedTag || items.length !== 3) this.value(item);
      else if (this.#tagMemo >= 0) {
        this.#boundary();
        this.#put(0x68, this.#tagMemo);
      } else {
        this.#tagMemo = this.#memos;
        this.value(item);
      }
    });
    this.closeTuple(items.length);
  }

  #string(text: string): void {
    this.#blob(Buffer.from(text, "utf8"), 0x8c, 0x58);
  }

  #blob(bytes: Uint8Array, shortOpcode: number, longOpcode: number): void {
    const outside = bytes.length >= frameTargetLength;
    if (outside) this.#closeFrame();
    if (bytes.length < 0x100) this.#put(shortOpcode, bytes.length);
    else {
      this.#put(longOpcode);
      this.#at = this.#buffer.writeUInt32LE(bytes.length, this.#at);
    }
    this.#buffer.set(bytes, this.#at);
    this.#at += bytes.length;
    if (outside) this.#openFrame();
    this.#memoize();
  }

  #integer(value: number | bigint): void {
    checkInteger(value);
    const big = BigInt(value);
    if (big >= 0n && big < 0x100n) this.#put(0x4b, Number(big));
    else if (big >= 0n && big < 0x1_0000n) {
      this.#put(0x4d);
      this.#at = this.#buffer.writeUInt16LE(Number(big), this.#at);
    } else if (big >= -0x8000_0000n && big < 0x8000_0000n) {
      this.#put(0x4a);
      this.#at = this.#buffer.writeInt32LE(Number(big), this.#at);
    } else {
      // Two's complement, little-endian, in as few bytes as keep the sign.
      let length = 5;
      while (BigInt.asIntN(length * 8, big) !== big) length += 1;
      this.#put(0x8a, length);
      for (let i = 0; i < length; i++) this.#put(Number((big >> BigInt(i * 8)) & 0xffn));
    }
  }

  #put(byte: number, second?: number): void {
    this.#buffer[this.#at++] = byte;
    if (second !== undefined) this.#buffer[this.#at++] = second;
  }

  #memoize(): void {
    this.#put(0x94);
    this.#memos += 1;
  }

  #boundary(): void {
    if (this.#at - this.#frameStart < frameTargetLength) return;
    this.#closeFrame();
    this.#openFrame();
  }

  #openFrame(): void {
    this.#buffer[this.#at] = 0x95;
    this.#at += frameHeadLength;
    this.#frameStart = this.#at;
  }

  #closeFrame(): void {
    const lengthAt = this.#frameStart - 8;
    this.#buffer.writeUInt32LE(this.#at - this.#frameStart, lengthAt);
    this.#buffer.writeUInt32LE(0, lengthAt + 4);
  }
}
