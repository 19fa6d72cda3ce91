/** Part of a body: bytes `from` to `to`, the latter excluded. */
export interface Span {
  readonly from: number;
  readonly to: number;
}

const quote = 0x22;
const backslash = 0x5c;
const colon = 0x3a;

/**
 * Where a JSON object has the values of its own key `model`, quotes included: all of them, since of several the last one counts. Values that are no
 * strings are left out. The text is known to be JSON; bytes are walked once, without building anything.
 */
export function modelSpans(body: Uint8Array): readonly Span[] {
  const spans: Span[] = [];
  let depth = 0;
  let at = 0;
  while (at < body.length) {
    const byte = body[at];
    if (byte === quote) {
      const end = stringEnd(body, at);
      if (depth === 1 && isModelKey(body, at, end)) {
        const value = afterColon(body, end);
        if (value !== null && body[value] === quote) {
          const valueEnd = stringEnd(body, value);
          spans.push({ from: value, to: valueEnd });
          at = valueEnd;
          continue;
        }
      }
      at = end;
      continue;
    }
    if (byte === 0x7b || byte === 0x5b) depth += 1;
    else if (byte === 0x7d || byte === 0x5d) depth -= 1;
    at += 1;
  }
  return spans;
}

/** The body with other bytes in the place of each span. */
export function splice(body: Buffer, spans: readonly Span[], replacement: Buffer): Buffer {
  const parts: Buffer[] = [];
  let at = 0;
  for (const { from, to } of spans) {
    parts.push(body.subarray(at, from), replacement);
    at = to;
  }
  parts.push(body.subarray(at));
  return Buffer.concat(parts);
}

/** Past the closing quote of the string that begins at `start`. */
function stringEnd(body: Uint8Array, start: number): number {
  let at = start + 1;
  while (at < body.length && body[at] !== quote) at += body[at] === backslash ? 2 : 1;
  return Math.min(body.length, at + 1);
}

/** A key may be written with escapes, and is a key only when a colon follows. */
function isModelKey(body: Uint8Array, start: number, end: number): boolean {
  const written = Buffer.from(body.buffer, body.byteOffset + start, end - start);
  if (written.length < 7 || written.length > 5 * 6 + 2) return false;
  const text = written.toString("latin1");
  return text === '"model"' || (text.includes("\\") && unescaped(text) === "model");
}

function unescaped(text: string): string {
  return text.slice(1, -1).replace(/\\u([0-9a-fA-F]{4})/g, (_, hex: string) => String.fromCharCode(Number.parseInt(hex, 16)));
}

/** Where the value of a key begins; null when the string before was no key. */
function afterColon(body: Uint8Array, end: number): number | null {
  let at = skipSpace(body, end);
  if (body[at] !== colon) return null;
  at = skipSpace(body, at + 1);
  return at < body.length ? at : null;
}

function skipSpace(body: Uint8Array, from: number): number {
  let at = from;
  while (body[at] === 0x20 || body[at] === 0x0a || body[at] === 0x0d || body[at] === 0x09) at += 1;
  return at;
}
