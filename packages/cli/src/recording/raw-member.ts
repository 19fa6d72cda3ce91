/**
 * Text of one member of a JSON object as it stands in the source, or null when the object has no such member. Number forms and key order of a
 * request body count for tokenization, and parsing and printing it again would lose them.
 *
 * `json` must be a valid JSON object: the scan trusts brackets and quotes. Of duplicate members the last counts, as in `JSON.parse`.
 */
export function rawMember(json: string, name: string): string | null {
  let found: string | null = null;
  let at = skipSpace(json, json.indexOf("{") + 1);
  while (at < json.length && json.charCodeAt(at) === quote) {
    const keyEnd = endOfString(json, at);
    const key: unknown = JSON.parse(json.slice(at, keyEnd));
    const start = skipSpace(json, skipSpace(json, keyEnd) + 1);
    const end = endOfValue(json, start);
    if (key === name) found = json.slice(start, end);
    at = skipSpace(json, end);
    if (json.charCodeAt(at) === comma) at = skipSpace(json, at + 1);
  }
  return found;
}

const quote = 0x22;
const backslash = 0x5c;
const comma = 0x2c;
const space = /\s*/y;
const scalar = /[^,}\]\s]*/y;
const quoteOrBracket = /["[\]{}]/g;

function skipSpace(json: string, at: number): number {
  space.lastIndex = at;
  space.exec(json);
  return space.lastIndex;
}

/** Position after the closing quote of the string that opens at `at`. */
function endOfString(json: string, at: number): number {
  let end = json.indexOf('"', at + 1);
  while (end >= 0) {
    let slashes = 0;
    while (json.charCodeAt(end - 1 - slashes) === backslash) slashes++;
    if (slashes % 2 === 0) return end + 1;
    end = json.indexOf('"', end + 1);
  }
  return json.length;
}

function endOfValue(json: string, start: number): number {
  const first = json.charAt(start);
  if (first === '"') return endOfString(json, start);
  if (first !== "{" && first !== "[") {
    scalar.lastIndex = start;
    scalar.exec(json);
    return scalar.lastIndex;
  }
  let depth = 0;
  quoteOrBracket.lastIndex = start;
  for (let match = quoteOrBracket.exec(json); match !== null; match = quoteOrBracket.exec(json)) {
    if (match[0] === '"') quoteOrBracket.lastIndex = endOfString(json, match.index);
    else if (match[0] === "{" || match[0] === "[") depth++;
    else if (--depth === 0) return match.index + 1;
  }
  return json.length;
}
