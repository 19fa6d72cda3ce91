/**
 * Puts another model name into an answer while it streams by: every `"model":"<from>"`, with or without a space after the colon, becomes the name `to`.
 * In JSON these bytes are a key and its value wherever they stand: inside of a string their quotes would be escaped.
 *
 * Pieces are passed on as they come; only the end of one that may be the beginning of the pattern is kept for the next.
 */
export class AnswerModel {
  readonly #patterns: readonly Buffer[];
  readonly #replacement: Buffer;
  #kept: Buffer | null = null;

  constructor(from: string, to: string) {
    const value = JSON.stringify(from);
    this.#patterns = [Buffer.from(`"model":${value}`), Buffer.from(`"model": ${value}`)];
    this.#replacement = Buffer.from(`"model":${JSON.stringify(to)}`);
  }

  /** The piece as it goes on to the client; may be empty. */
  next(chunk: Buffer): Buffer {
    const bytes = this.#kept === null ? chunk : Buffer.concat([this.#kept, chunk]);
    this.#kept = null;
    const parts: Buffer[] = [];
    let at = 0;
    for (;;) {
      const found = this.#firstOf(bytes, at);
      if (found === null) break;
      parts.push(bytes.subarray(at, found.at), this.#replacement);
      at = found.at + found.length;
    }
    const rest = bytes.subarray(at);
    const keep = this.#beginningAtEnd(rest);
    if (keep > 0) this.#kept = Buffer.from(rest.subarray(rest.length - keep));
    const passed = rest.subarray(0, rest.length - keep);
    return parts.length === 0 ? passed : Buffer.concat([...parts, passed]);
  }

  /** What is left when the answer is over. */
  end(): Buffer | null {
    const kept = this.#kept;
    this.#kept = null;
    return kept;
  }

  #firstOf(bytes: Buffer, from: number): { readonly at: number; readonly length: number } | null {
    let first: { readonly at: number; readonly length: number } | null = null;
    for (const pattern of this.#patterns) {
      const at = bytes.indexOf(pattern, from);
      if (at >= 0 && (first === null || at < first.at)) first = { at, length: pattern.length };
    }
    return first;
  }

  /** How many bytes at the end may be the beginning of a pattern. */
  #beginningAtEnd(bytes: Buffer): number {
    let longest = 0;
    for (const pattern of this.#patterns) {
      for (let length = Math.min(pattern.length - 1, bytes.length); length > longest; length--) {
        if (bytes[bytes.length - length] === 0x22 && bytes.subarray(bytes.length - length).equals(pattern.subarray(0, length)))
          longest = length;
      }
    }
    return longest;
  }
}
