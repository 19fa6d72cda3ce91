import { bind, need, needIndex, needString } from "./arguments.ts";
import { str } from "./printing.ts";
import {
  type CallArguments,
  codePoints,
  iterate,
  stringLength,
  TemplateRaised,
  TemplateUnsupported,
  Tuple,
  Undefined,
  type Value,
} from "./values.ts";

/** What `str.isspace`, `strip()` and `split()` count as whitespace in Python 3. */
const SPACES = "\\u0009-\\u000d\\u001c-\\u0020\\u0085\\u00a0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000";
const LEADING = new RegExp(`^[${SPACES}]+`);
const TRAILING_CHAR = new RegExp(`[${SPACES}]`);
const RUNS = new RegExp(`[${SPACES}]+`);
const LINE_ENDS = "\\n\\v\\f\\r\\u001c-\\u001e\\u0085\\u2028\\u2029";
/** Where `str.splitlines` cuts. */
export const LINE_BREAK = new RegExp(`\\r\\n|[${LINE_ENDS}]`, "g");

/** `str.strip`, `lstrip`, `rstrip`: whitespace, or any of `chars`. */
export function strip(text: string, side: "both" | "left" | "right", chars: string | null = null): string {
  if (chars === null) {
    let result = text;
    if (side !== "left") {
      let end = result.length;
      while (end > 0 && TRAILING_CHAR.test(result[end - 1] ?? "")) end--;
      result = result.slice(0, end);
    }
    return side === "right" ? result : result.replace(LEADING, "");
  }
  const set = new Set(codePoints(chars));
  const points = codePoints(text);
  let start = 0;
  let end = points.length;
  if (side !== "right") while (start < end && set.has(points[start] ?? "")) start++;
  if (side !== "left") while (end > start && set.has(points[end - 1] ?? "")) end--;
  return points.slice(start, end).join("");
}

/** `str.split` and `str.rsplit`. */
export function splitString(text: string, separator: string | null, limit: number, fromRight = false): string[] {
  if (separator === "") throw new TemplateRaised("empty separator");
  if (separator === null) {
    const words = strip(text, "both").split(RUNS);
    if (words.length === 1 && words[0] === "") return [];
    if (limit < 0 || words.length <= limit + 1) return words;
    return splitSpaces(text, limit, fromRight);
  }
  const parts = text.split(separator);
  if (limit < 0 || parts.length <= limit + 1) return parts;
  if (fromRight) return [parts.slice(0, parts.length - limit).join(separator), ...parts.slice(parts.length - limit)];
  return [...parts.slice(0, limit), parts.slice(limit).join(separator)];
}

function splitSpaces(text: string, limit: number, fromRight: boolean): string[] {
  const parts: string[] = [];
  let rest = strip(text, "both");
  for (let i = 0; i < limit; i++) {
    if (fromRight) {
      let start = rest.length;
      while (start > 0 && !TRAILING_CHAR.test(rest[start - 1] ?? "")) start--;
      parts.unshift(rest.slice(start));
      rest = strip(rest.slice(0, start), "right");
    } else {
      const match = RUNS.exec(rest);
      const at = match?.index ?? rest.length;
      parts.push(rest.slice(0, at));
      rest = strip(rest.slice(at), "left");
    }
  }
  // Python leaves the outer whitespace of the unsplit part on its far side alone.
  if (fromRight) parts.unshift(text.slice(0, text.indexOf(rest) + rest.length));
  else parts.push(text.slice(text.length - (text.length - strip(text, "right").length) - rest.length));
  return parts;
}

function splitLines(text: string, keepEnds: boolean): string[] {
  const lines: string[] = [];
  let start = 0;
  for (const match of text.matchAll(LINE_BREAK)) {
    const end = match.index + match[0].length;
    lines.push(text.slice(start, keepEnds ? end : match.index));
    start = end;
  }
  if (start < text.length) lines.push(text.slice(start));
  return lines;
}

/** `str.capitalize`. */
export function capitalize(text: string): string {
  const [first = "", ...rest] = codePoints(text);
  return upperFirst(first) + lower(rest.join(""));
}

/** Title case of one character; differs from upper case for a few digraphs only. */
function upperFirst(char: string): string {
  const upper = char.toUpperCase();
  if (upper.length > 1 && stringLength(upper) > 1) return upper[0] + lower(upper.slice(1));
  return upper;
}

/** `str.lower`, independent of the process locale. */
export function lower(text: string): string {
  return text.toLowerCase();
}

/** `str.title`: letters that follow a letter are lowered, others raised. */
export function titleMethod(text: string): string {
  let previousCased = false;
  let result = "";
  for (const char of codePoints(text)) {
    const cased = char.toLowerCase() !== char.toUpperCase();
    result += cased ? (previousCased ? char.toLowerCase() : upperFirst(char)) : char;
    previousCased = cased;
  }
  return result;
}

/** `str.replace(old, new[, count])`. */
export function replaceString(text: string, from: string, to: string, count: number): string {
  if (count < 0) return from === "" ? [...codePoints(text).map((char) => to + char), to].join("") : text.split(from).join(to);
  if (from === "") throw new TemplateUnsupported("replace of an empty string with a count");
  return splitString(text, from, count).join(to);
}

/** Bounds of `text[start:end]` as `find`, `startswith` and others take them. */
function window(
  text: string,
  name: string,
  bound: ReadonlyMap<string, Value>,
): { readonly text: string; readonly offset: number; readonly valid: boolean } {
  const start = bound.get("start") ?? null;
  const end = bound.get("end") ?? null;
  if (start === null && end === null) return { text, offset: 0, valid: true };
  const points = codePoints(text);
  const clamp = (value: Value, whole: number): number => {
    if (value === null) return whole;
    const index = needIndex(name, value);
    return index < 0 ? Math.max(0, points.length + index) : index;
  };
  const from = clamp(start, 0);
  const to = Math.min(clamp(end, points.length), points.length);
  return { text: points.slice(from, to).join(""), offset: from, valid: from <= points.length && from <= to };
}

type Method = (text: string, args: CallArguments, name: string) => Value;

function stripper(side: "both" | "left" | "right"): Method {
  return (text, args, name) => {
    const chars = bind(name, ["chars"], args).get("chars") ?? null;
    return strip(text, side, chars === null ? null : needString(name, chars));
  };
}

function affix(test: (text: string, affix: string) => boolean): Method {
  return (text, args, name) => {
    const bound = bind(name, ["prefix", "start", "end"], args);
    const wanted = need(name, bound, "prefix");
    const part = window(text, name, bound);
    if (!part.valid) return false;
    if (wanted instanceof Tuple) return wanted.items.some((item) => test(part.text, needString(name, item)));
    return test(part.text, needString(name, wanted));
  };
}

function finder(last: boolean, failure: boolean): Method {
  return (text, args, name) => {
    const bound = bind(name, ["sub", "start", "end"], args);
    const part = window(text, name, bound);
    const sub = needString(name, need(name, bound, "sub"));
    const at = !part.valid ? -1 : last ? part.text.lastIndexOf(sub) : part.text.indexOf(sub);
    if (at < 0) {
      if (failure) throw new TemplateRaised("substring not found");
      return -1;
    }
    return part.offset + stringLength(part.text.slice(0, at));
  };
}

function splitter(fromRight: boolean): Method {
  return (text, args, name) => {
    const bound = bind(name, ["sep", "maxsplit"], args);
    const separator = bound.get("sep") ?? null;
    const limit = bound.get("maxsplit");
    return splitString(
      text,
      separator === null ? null : needString(name, separator),
      limit === undefined ? -1 : needIndex(name, limit),
      fromRight,
    );
  };
}

function partition(last: boolean): Method {
  return (text, args, name) => {
    const separator = needString(name, need(name, bind(name, ["sep"], args), "sep"));
    if (separator === "") throw new TemplateRaised("empty separator");
    const at = last ? text.lastIndexOf(separator) : text.indexOf(separator);
    if (at < 0) return new Tuple(last ? ["", "", text] : [text, "", ""]);
    return new Tuple([text.slice(0, at), separator, text.slice(at + separator.length)]);
  };
}

function every(pattern: RegExp): Method {
  return (text, args, name) => {
    bind(name, [], args);
    return pattern.test(text);
  };
}

function cased(wanted: (text: string) => string): Method {
  return (text, args, name) => {
    bind(name, [], args);
    return wanted(text) === text && text.toLowerCase() !== text.toUpperCase();
  };
}

function plain(convert: (text: string) => Value): Method {
  return (text, args, name) => {
    bind(name, [], args);
    return convert(text);
  };
}

function padder(side: "left" | "right"): Method {
  return (text, args, name) => {
    const bound = bind(name, ["width", "fillchar"], args);
    const fill = needString(name, bound.get("fillchar") ?? " ");
    const missing = needIndex(name, need(name, bound, "width")) - stringLength(text);
    if (missing <= 0) return text;
    return side === "left" ? text + fill.repeat(missing) : fill.repeat(missing) + text;
  };
}

/** `str.format` with plain fields: `{}`, `{0}`, `{name}`. */
const formatString: Method = (text, args) => {
  let automatic = 0;
  let manual = false;
  return text.replace(/\{\{|\}\}|\{([^{}]*)\}|[{}]/g, (match, field: string | undefined) => {
    if (match === "{{" || match === "}}") return match[0] ?? "";
    if (field === undefined || !/^(?:[0-9]+|[A-Za-z_][A-Za-z0-9_]*)?$/.test(field)) throw new TemplateUnsupported(`format field ${match}`);
    manual ||= /^[0-9]+$/.test(field);
    if (manual && (field === "" || automatic > 0)) throw new TemplateRaised("cannot mix automatic and manual field numbering");
    const value = /^[0-9]*$/.test(field) ? args.positional[field === "" ? automatic++ : Number(field)] : args.named.get(field);
    if (value === undefined) throw new TemplateRaised(`format has no argument for ${match}`);
    return str(value);
  });
};

/** Methods of `str` that templates may call. */
export const stringMethods: ReadonlyMap<string, Method> = new Map<string, Method>([
  ["strip", stripper("both")],
  ["lstrip", stripper("left")],
  ["rstrip", stripper("right")],
  ["split", splitter(false)],
  ["rsplit", splitter(true)],
  ["partition", partition(false)],
  ["rpartition", partition(true)],
  ["startswith", affix((text, prefix) => text.startsWith(prefix))],
  ["endswith", affix((text, suffix) => text.endsWith(suffix))],
  ["find", finder(false, false)],
  ["rfind", finder(true, false)],
  ["index", finder(false, true)],
  ["rindex", finder(true, true)],
  ["upper", plain((text) => text.toUpperCase())],
  ["lower", plain(lower)],
  ["casefold", plain((text) => lower(text).replaceAll("ß", "ss"))],
  ["capitalize", plain(capitalize)],
  ["title", plain(titleMethod)],
  [
    "swapcase",
    plain((text) =>
      codePoints(text)
        .map((char) => (char === char.toLowerCase() ? char.toUpperCase() : char.toLowerCase()))
        .join(""),
    ),
  ],
  ["isdigit", every(/^[\p{Nd}²³¹⁰⁴-⁹₀-₉①-⑨]+$/u)],
  ["isdecimal", every(/^\p{Nd}+$/u)],
  ["isnumeric", every(/^\p{N}+$/u)],
  ["isalpha", every(/^\p{L}+$/u)],
  ["isalnum", every(/^[\p{L}\p{N}]+$/u)],
  ["isspace", every(new RegExp(`^[${SPACES}]+$`))],
  ["isupper", cased((text) => text.toUpperCase())],
  ["islower", cased((text) => text.toLowerCase())],
  ["ljust", padder("left")],
  ["rjust", padder("right")],
  [
    "zfill",
    (text, args, name) => {
      const missing = needIndex(name, need(name, bind(name, ["width"], args), "width")) - stringLength(text);
      if (missing <= 0) return text;
      const signed = text.startsWith("-") || text.startsWith("+");
      return signed ? text[0] + "0".repeat(missing) + text.slice(1) : "0".repeat(missing) + text;
    },
  ],
  ["splitlines", (text, args, name) => splitLines(text, bind(name, ["keepends"], args).get("keepends") === true)],
  [
    "replace",
    (text, args, name) => {
      const bound = bind(name, ["old", "new", "count"], args);
      const count = bound.get("count");
      return replaceString(
        text,
        needString(name, need(name, bound, "old")),
        needString(name, need(name, bound, "new")),
        count === undefined ? -1 : needIndex(name, count),
      );
    },
  ],
  [
    "count",
    (text, args, name) => {
      const bound = bind(name, ["sub", "start", "end"], args);
      const part = window(text, name, bound);
      const sub = needString(name, need(name, bound, "sub"));
      if (!part.valid) return 0;
      return sub === "" ? stringLength(part.text) + 1 : part.text.split(sub).length - 1;
    },
  ],
  [
    "join",
    (text, args, name) => {
      const items = need(name, bind(name, ["iterable"], args), "iterable");
      if (items instanceof Undefined) return "";
      return iterate(items)
        .map((item) => needString(name, item))
        .join(text);
    },
  ],
  ["format", formatString],
  [
    "removeprefix",
    (text, args, name) => {
      const prefix = needString(name, need(name, bind(name, ["prefix"], args), "prefix"));
      return text.startsWith(prefix) ? text.slice(prefix.length) : text;
    },
  ],
  [
    "removesuffix",
    (text, args, name) => {
      const suffix = needString(name, need(name, bind(name, ["suffix"], args), "suffix"));
      return suffix !== "" && text.endsWith(suffix) ? text.slice(0, -suffix.length) : text;
    },
  ],
]);

/** Methods of `str` that exist in Python and are not reproduced here. */
export const unsupportedStringMethods: ReadonlySet<string> = new Set(
  "center encode expandtabs format_map isascii isidentifier isprintable istitle maketrans translate".split(" "),
);
