/** Longest block whose view is kept; longer ones are rare and pay for a fresh view. */
const maxKeptView = 2048;

/** A buffer that grows to the largest block seen and keeps one view per length, because making a view costs as much as encoding a block. */
export class Scratch {
  bytes: Buffer = Buffer.allocUnsafeSlow(4096);
  #views: (Buffer | undefined)[] = [];

  /** Makes room for `length` bytes; what was written before is lost. */
  reserve(length: number): void {
    if (length <= this.bytes.length) return;
    this.bytes = Buffer.allocUnsafeSlow(Math.max(length, this.bytes.length * 2));
    this.#views = [];
  }

  /** The first `length` bytes; valid until the next write. */
  view(length: number): Buffer {
    if (length > maxKeptView) return this.bytes.subarray(0, length);
    let view = this.#views[length];
    if (view === undefined) {
      view = this.bytes.subarray(0, length);
      this.#views[length] = view;
    }
    return view;
  }
}

/** Writes lower-case hex digits as bytes; faster than `Buffer.write` for the 32 bytes of a digest. Returns the offset after them. */
export function writeHex(buffer: Buffer, at: number, digits: string): number {
  let end = at;
  for (let i = 0; i < digits.length; i += 2) {
    const high = digits.charCodeAt(i);
    const low = digits.charCodeAt(i + 1);
    // "0".."9" have their value in the low four bits; "a".."f" lack nine, and are the ones with bit 6 set.
    buffer[end++] = (((high & 15) + (high >>> 6) * 9) << 4) | ((low & 15) + (low >>> 6) * 9);
  }
  return end;
}
