/**
 * Writes MessagePack the way msgspec does (shortest integers, float64 for floats) into one growing buffer.
 * Writing by hand keeps three things that a generic encoder loses: a float with a whole value, a map16 head on a small map, and hashes taken
 * from hex without a BigInt each.
 */
export class MsgpackWriter {
  #bytes = Buffer.allocUnsafe(4096);
  #length = 0;

  /** The bytes written so far, as a copy of their own; the writer is empty again. */
  take(): Buffer {
    const result = Buffer.from(this.#bytes.subarray(0, this.#length));
    this.#length = 0;
    return result;
  }

  nil(): void {
    this.#reserve(1);
    this.#bytes[this.#length++] = 0xc0;
  }

  boolean(value: boolean): void {
    this.#reserve(1);
    this.#bytes[this.#length++] = value ? 0xc3 : 0xc2;
  }

  float(value: number): void {
    this.#reserve(9);
    this.#bytes[this.#length] = 0xcb;
    this.#bytes.writeDoubleBE(value, this.#length + 1);
    this.#length += 9;
  }

  /** An unsigned integer below 2^53. */
  uint(value: number): void {
    this.#reserve(9);
    const at = this.#length;
    if (value < 0x80) {
      this.#bytes[at] = value;
      this.#length = at + 1;
    } else if (value < 0x1_00) {
      this.#bytes[at] = 0xcc;
      this.#bytes[at + 1] = value;
      this.#length = at + 2;
    } else if (value < 0x1_0000) {
      this.#bytes[at] = 0xcd;
      this.#length = this.#bytes.writeUInt16BE(value, at + 1);
    } else if (value < 0x1_0000_0000) {
      this.#bytes[at] = 0xce;
      this.#length = this.#bytes.writeUInt32BE(value, at + 1);
    } else {
      this.#bytes[at] = 0xcf;
      this.#bytes.writeUInt32BE(Math.floor(value / 0x1_0000_0000), at + 1);
      this.#length = this.#bytes.writeUInt32BE(value % 0x1_0000_0000, at + 5);
    }
  }

  /** An integer of at most 32 bits below 0, or 53 above. */
  int(value: number): void {
    if (value >= 0) {
      this.uint(value);
      return;
    }
    this.#reserve(5);
    const at = this.#length;
    if (value >= -0x20) {
      this.#length = this.#bytes.writeInt8(value, at);
    } else if (value >= -0x80) {
      this.#bytes[at] = 0xd0;
      this.#length = this.#bytes.writeInt8(value, at + 1);
    } else if (value >= -0x8000) {
      this.#bytes[at] = 0xd1;
      this.#length = this.#bytes.writeInt16BE(value, at + 1);
    } else {
      this.#bytes[at] = 0xd2;
      this.#length = this.#bytes.writeInt32BE(value, at + 1);
    }
  }

  /** An unsigned 64-bit integer from its 16 hex digits. */
  uint64Hex(hex: string): void {
    const high = Number.parseInt(hex.slice(0, 8), 16);
    const low = Number.parseInt(hex.slice(8), 16);
    if (high === 0) {
      this.uint(low);
      return;
    }
    this.#reserve(9);
    this.#bytes[this.#length] = 0xcf;
    this.#bytes.writeUInt32BE(high, this.#length + 1);
    this.#length = this.#bytes.writeUInt32BE(low, this.#length + 5);
  }

  /** Binary data from hex digits, at most 255 bytes. */
  binaryHex(hex: string): void {
    const size = hex.length / 2;
    this.#reserve(2 + size);
    this.#bytes[this.#length] = 0xc4;
    this.#bytes[this.#length + 1] = size;
    this.#bytes.write(hex, this.#length + 2, size, "hex");
    this.#length += 2 + size;
  }

  string(value: string): void {
    const size = Buffer.byteLength(value);
    this.#reserve(5 + size);
    if (size < 32) this.#bytes[this.#length++] = 0xa0 | size;
    else this.#head(size, 0xd9, 0xda, 0xdb);
    this.#bytes.write(value, this.#length, size, "utf8");
    this.#length += size;
  }

  arrayHead(size: number): void {
    this.#reserve(5);
    if (size < 16) this.#bytes[this.#length++] = 0x90 | size;
    else this.#head(size, null, 0xdc, 0xdd);
  }

  /** `wide` writes a map16 head whatever the size. */
  mapHead(size: number, wide = false): void {
    this.#reserve(5);
    if (size < 16 && !wide) this.#bytes[this.#length++] = 0x80 | size;
    else this.#head(size, null, 0xde, 0xdf);
  }

  #head(size: number, tag8: number | null, tag16: number, tag32: number): void {
    const at = this.#length;
    if (tag8 !== null && size < 0x1_00) {
      this.#bytes[at] = tag8;
      this.#bytes[at + 1] = size;
      this.#length = at + 2;
    } else if (size < 0x1_0000) {
      this.#bytes[at] = tag16;
      this.#length = this.#bytes.writeUInt16BE(size, at + 1);
    } else {
      this.#bytes[at] = tag32;
      this.#length = this.#bytes.writeUInt32BE(size, at + 1);
    }
  }

  #reserve(more: number): void {
    if (this.#length + more <= this.#bytes.length) return;
    const grown = Buffer.allocUnsafe(Math.max(this.#bytes.length * 2, this.#length + more));
    this.#bytes.copy(grown, 0, 0, this.#length);
    this.#bytes = grown;
  }
}
