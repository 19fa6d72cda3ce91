/** A field of the outermost object of a JSON text, by where it stands. */
export interface JsonField {
  readonly name: string;
  /** From the first character of the value. */
  readonly start: number;
  /** Behind the last character of the value. */
  readonly end: number;
}

const SPACE = /[ \t\n\r]*/y;
const STRING = /"(?:[^"\\]|\\.)*"/sy;
const SCALAR = /[^\s,\]}]+/y;

/**
 * Where the fields of a JSON object are, so that values can be passed on as they were written: numbers, order and spaces included.
 * The text must be valid JSON; null when it is no object.
 */
export function jsonFields(text: string): readonly JsonField[] | null {
  const fields: JsonField[] = [];
  let at = skip(SPACE, text, text.startsWith("\ufeff") ? 1 : 0);
  if (text[at] !== "{") return null;
  at = skip(SPACE, text, at + 1);
  while (at < text.length && text[at] !== "}") {
    const nameEnd = skip(STRING, text, at);
    if (nameEnd === at) return null;
    const name = nameOf(text.slice(at, nameEnd));
    const colon = skip(SPACE, text, nameEnd);
    if (name === null || text[colon] !== ":") return null;
    const start = skip(SPACE, text, colon + 1);
    const end = valueEnd(text, start);
    if (end === start) return null;
    fields.push({ name, start, end });
    at = skip(SPACE, text, end);
    if (text[at] === ",") at = skip(SPACE, text, at + 1);
  }
  return text[at] === "}" ? fields : null;
}

function valueEnd(text: string, start: number): number {
  const first = text[start];
  if (first === '"') return skip(STRING, text, start);
  if (first !== "{" && first !== "[") return skip(SCALAR, text, start);
  let depth = 0;
  for (let at = start; at < text.length; at++) {
    switch (text.charCodeAt(at)) {
      case 0x22: {
        const end = skip(STRING, text, at);
        if (end === at) return start;
        at = end - 1;
        break;
      }
      case 0x7b:
      case 0x5b:
        depth += 1;
        break;
      case 0x7d:
      case 0x5d:
        depth -= 1;
        if (depth === 0) return at + 1;
        break;
      default:
        break;
    }
  }
  return start;
}

function skip(pattern: RegExp, text: string, at: number): number {
  pattern.lastIndex = at;
  return pattern.test(text) ? pattern.lastIndex : at;
}

function nameOf(quoted: string): string | null {
  try {
    const name: unknown = JSON.parse(quoted);
    return typeof name === "string" ? name : null;
  } catch {
    return null;
  }
}
