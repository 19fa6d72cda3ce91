/** The payload ends inside a value, or declares more elements than it has bytes. Internal to `events/`. */
export class TruncatedPayload extends Error {}

/** Stands for a value of a type the caller did not ask for; the value has been consumed. */
export const unreadable: unique symbol = Symbol("unreadable");
export type Unreadable = typeof unreadable;

/** Nesting that is read as a value; what lies deeper makes the value unreadable. Events nest extras three deep. */
const maxValueDepth = 8;

/** What `readValue` gives: the MessagePack types that occur in extra keys. */
export type WireValue = string | number | bigint | Uint8Array | null | readonly WireValue[];

const hexOfByte: readonly string[] = Array.from({ length: 256 }, (_, byte) => byte.toString(16).padStart(2, "0"));
const utf8 = new TextDecoder("utf-8", { ignoreBOM: true });

/**
 * A cursor over MessagePack bytes that reads what an event needs and steps over the rest, without building a tree.
 *
 * Every `read*` method consumes exactly one value whatever its type, so one bad field never shifts the next.
 * Memory is bounded by the payload: containers grow as their elements are read, and a head that declares more elements
 * than bytes remain is a TruncatedPayload at once.
 */
export class MsgpackReader {
  readonly #bytes: Uint8Array;
  readonly #view: DataView;
  #at = 0;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  /** Byte offset of the next value; may be set back to an offset seen before. */
  get position(): number {
    return this.#at;
  }

  set position(offset: number) {
    this.#at = offset;
  }

  get done(): boolean {
    return this.#at >= this.#bytes.length;
  }

  /** First byte of the next value. */
  peek(): number {
    const head = this.#bytes[this.#at];
    if (head === undefined) throw new TruncatedPayload();
    return head;
  }

  /** Consumes an array's head and returns its length; -1, consuming nothing, when the next value is no array. */
  enterArray(): number {
    const head = this.peek();
    let length: number;
    if ((head & 0xf0) === 0x90) {
      length = head & 0x0f;
      this.#at += 1;
    } else if (head === 0xdc) {
      length = this.#uint(1, 2);
      this.#at += 3;
    } else if (head === 0xdd) {
      length = this.#uint(1, 4);
      this.#at += 5;
    } else return -1;
    return this.#checked(length, length);
  }

  /** Consumes a map's head and returns its number of entries; -1, consuming nothing, when the next value is no map. */
  enterMap(): number {
    const head = this.peek();
    let entries: number;
    if ((head & 0xf0) === 0x80) {
      entries = head & 0x0f;
      this.#at += 1;
    } else if (head === 0xde) {
      entries = this.#uint(1, 2);
      this.#at += 3;
    } else if (head === 0xdf) {
      entries = this.#uint(1, 4);
      this.#at += 5;
    } else return -1;
    return this.#checked(entries, entries * 2);
  }

  /** Consumes a nil; false, consuming nothing, when the next value is something else. */
  takeNil(): boolean {
    if (this.peek() !== 0xc0) return false;
    this.#at += 1;
    return true;
  }

  /** An integer in 0..2^32-1, whatever its width on the wire; -1 for anything else. */
  readUint32(): number {
    const head = this.peek();
    if (head < 0x80) {
      this.#at += 1;
      return head;
    }
    if (head === 0xcd) {
      const value = this.#uint(1, 2);
      this.#at += 3;
      return value;
    }
    if (head === 0xce) {
      const value = this.#uint(1, 4);
      this.#at += 5;
      return value;
    }
    if (head === 0xcc) {
      const value = this.#uint(1, 1);
      this.#at += 2;
      return value;
    }
    const value = this.readNumber();
    const isFloat = head === 0xca || head === 0xcb;
    return value === unreadable || isFloat || value < 0 || value > 0xffff_ffff ? -1 : value;
  }

  /** An integer or float as a number; 64-bit integers lose precision past 2^53. */
  readNumber(): number | Unreadable {
    const at = this.#at;
    const head = this.peek();
    this.skip();
    if (head < 0x80) return head;
    if (head >= 0xe0) return head - 256;
    switch (head) {
      case 0xca:
        return this.#view.getFloat32(at + 1);
      case 0xcb:
        return this.#view.getFloat64(at + 1);
      case 0xcc:
        return this.#view.getUint8(at + 1);
      case 0xcd:
        return this.#view.getUint16(at + 1);
      case 0xce:
        return this.#view.getUint32(at + 1);
      case 0xcf:
        return this.#view.getUint32(at + 1) * 0x1_0000_0000 + this.#view.getUint32(at + 5);
      case 0xd0:
        return this.#view.getInt8(at + 1);
      case 0xd1:
        return this.#view.getInt16(at + 1);
      case 0xd2:
        return this.#view.getInt32(at + 1);
      case 0xd3:
        return this.#view.getInt32(at + 1) * 0x1_0000_0000 + this.#view.getUint32(at + 5);
      default:
        return unreadable;
    }
  }

  /** UTF-8 text, copied. */
  readString(): string | Unreadable {
    const at = this.#at;
    const head = this.peek();
    this.skip();
    if ((head & 0xe0) === 0xa0) return this.#text(at + 1);
    if (head === 0xd9) return this.#text(at + 2);
    if (head === 0xda) return this.#text(at + 3);
    if (head === 0xdb) return this.#text(at + 5);
    return unreadable;
  }

  /**
   * Low 64 bits of a hash as 16 hex digits: an integer of any width (negative ones in two's complement), or the last
   * 8 of the bytes, big-endian (fewer are padded in front; none at all is unreadable).
   */
  readLow64(): string | Unreadable {
    const at = this.#at;
    const head = this.peek();
    this.skip();
    if (head === 0xcf || head === 0xd3) return this.#hex(at + 1, at + 9);
    if (head === 0xc4 || head === 0xc5 || head === 0xc6) {
      const start = at + 1 + (1 << (head - 0xc4));
      if (start === this.#at) return unreadable;
      return this.#hex(Math.max(start, this.#at - 8), this.#at).padStart(16, "0");
    }
    if (head < 0x80) return `00000000000000${hexOfByte[head]}`;
    if (head >= 0xe0) return `ffffffffffffff${hexOfByte[head]}`;
    if (head >= 0xcc && head <= 0xce) return this.#hex(at + 1, this.#at).padStart(16, "0");
    if (head >= 0xd0 && head <= 0xd2) return this.#hex(at + 1, this.#at).padStart(16, this.#view.getInt8(at + 1) < 0 ? "f" : "0");
    return unreadable;
  }

  /** Any value made of strings, numbers, bytes, nil and arrays of them; bytes are copied. Booleans, maps and extensions are unreadable. */
  readValue(depth = maxValueDepth): WireValue | Unreadable {
    const at = this.#at;
    const head = this.peek();
    if ((head & 0xf0) === 0x90 || head === 0xdc || head === 0xdd) {
      if (depth === 0) {
        this.skip();
        return unreadable;
      }
      const length = this.enterArray();
      const items: WireValue[] = [];
      let readable = true;
      for (let i = 0; i < length; i++) {
        const item = this.readValue(depth - 1);
        if (item === unreadable) readable = false;
        else if (readable) items.push(item);
      }
      return readable ? items : unreadable;
    }
    if (head === 0xc0) {
      this.#at += 1;
      return null;
    }
    if ((head & 0xe0) === 0xa0 || (head >= 0xd9 && head <= 0xdb)) return this.readString();
    if (head === 0xcf || head === 0xd3) {
      this.skip();
      return head === 0xcf ? this.#view.getBigUint64(at + 1) : this.#view.getBigInt64(at + 1);
    }
    if (head === 0xc4 || head === 0xc5 || head === 0xc6) {
      this.skip();
      return this.#bytes.slice(at + 1 + (1 << (head - 0xc4)), this.#at);
    }
    return this.readNumber();
  }

  /** Steps over one value of any type and depth. */
  skip(): void {
    let pending = 1;
    while (pending > 0) {
      pending -= 1;
      const head = this.peek();
      this.#at += 1;
      if (head < 0x80 || head >= 0xe0) continue;
      if (head < 0x90) pending += (head & 0x0f) * 2;
      else if (head < 0xa0) pending += head & 0x0f;
      else if (head < 0xc0) this.#at += head & 0x1f;
      else pending += this.#stepOver(head);
      if (pending > this.#bytes.length - this.#at) throw new TruncatedPayload();
    }
  }

  /** Moves past a value whose head is in 0xc0..0xdf, less its elements; returns how many of those follow. */
  #stepOver(head: number): number {
    switch (head) {
      case 0xcc:
      case 0xd0:
        this.#at += 1;
        return 0;
      case 0xcd:
      case 0xd1:
        this.#at += 2;
        return 0;
      case 0xca:
      case 0xce:
      case 0xd2:
        this.#at += 4;
        return 0;
      case 0xcb:
      case 0xcf:
      case 0xd3:
        this.#at += 8;
        return 0;
      case 0xc4:
      case 0xd9:
        this.#at += 1 + this.#uint(0, 1);
        return 0;
      case 0xc5:
      case 0xda:
        this.#at += 2 + this.#uint(0, 2);
        return 0;
      case 0xc6:
      case 0xdb:
        this.#at += 4 + this.#uint(0, 4);
        return 0;
      case 0xc7:
        this.#at += 2 + this.#uint(0, 1);
        return 0;
      case 0xc8:
        this.#at += 3 + this.#uint(0, 2);
        return 0;
      case 0xc9:
        this.#at += 5 + this.#uint(0, 4);
        return 0;
      case 0xd4:
      case 0xd5:
      case 0xd6:
      case 0xd7:
      case 0xd8:
        this.#at += 1 + (1 << (head - 0xd4));
        return 0;
      case 0xdc:
      case 0xde: {
        const length = this.#uint(0, 2);
        this.#at += 2;
        return head === 0xdc ? length : length * 2;
      }
      case 0xdd:
      case 0xdf: {
        const length = this.#uint(0, 4);
        this.#at += 4;
        return head === 0xdd ? length : length * 2;
      }
      default: // nil, true, false; 0xc1 is never used
        return 0;
    }
  }

  #checked(length: number, values: number): number {
    if (values > this.#bytes.length - this.#at) throw new TruncatedPayload();
    return length;
  }

  #uint(offset: number, width: 1 | 2 | 4): number {
    const at = this.#at + offset;
    if (at + width > this.#bytes.length) throw new TruncatedPayload();
    if (width === 1) return this.#view.getUint8(at);
    return width === 2 ? this.#view.getUint16(at) : this.#view.getUint32(at);
  }

  #hex(from: number, to: number): string {
    let text = "";
    for (let i = from; i < to; i++) text += hexOfByte[this.#bytes[i] ?? 0];
    return text;
  }

  #text(from: number): string {
    const to = this.#at;
    if (to - from <= 24) {
      let text = "";
      for (let i = from; i < to; i++) {
        const byte = this.#bytes[i] ?? 0;
        if (byte >= 0x80) return utf8.decode(this.#bytes.subarray(from, to));
        text += String.fromCharCode(byte);
      }
      return text;
    }
    return utf8.decode(this.#bytes.subarray(from, to));
  }
}
