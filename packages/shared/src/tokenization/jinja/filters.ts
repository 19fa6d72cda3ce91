import { PythonFloat } from "../python-float.ts";
import { bind, need, needIndex, needString } from "./arguments.ts";
import { attribute, item } from "./members.ts";
import { arithmetic, compare, equals } from "./operators.ts";
import { type JsonOptions, str, toJson } from "./printing.ts";
import { capitalize, LINE_BREAK, lower, replaceString, strip } from "./strings.ts";
import { argumentTests, templateTests } from "./tests.ts";
import {
  type CallArguments,
  type Dict,
  DictView,
  Generator,
  GroupTuple,
  isInt,
  isNumber,
  iterate,
  Markup,
  raiseUndefined,
  stringLength,
  TemplateRaised,
  TemplateUnsupported,
  Tuple,
  toFloat,
  toInt,
  truthy,
  typeName,
  Undefined,
  type Value,
} from "./values.ts";

type Filter = (value: Value, args: CallArguments, name: string) => Value;

/** Jinja2's `make_attrgetter`: dots go deeper, digits index. */
function getter(path: Value, fallback: Value | null = null): (value: Value) => Value {
  if (isInt(path)) return (value) => item(value, path);
  if (typeof path !== "string") throw new TemplateUnsupported(`an attribute of type ${typeName(path)}`);
  const parts: Value[] = path.split(".").map((part) => (/^[0-9]+$/.test(part) ? Number(part) : part));
  return (value) => {
    let result = value;
    for (const part of parts) {
      result = item(result, part);
      if (result instanceof Undefined && fallback !== null) result = fallback;
    }
    return result;
  };
}

function lowered(value: Value): Value {
  return typeof value === "string" ? lower(value) : value;
}

function testArguments(args: CallArguments, skip: number): (value: Value) => boolean {
  const name = args.positional[skip];
  if (name === undefined) return truthy;
  if (args.named.size > 0) throw new TemplateUnsupported("keyword arguments of a test");
  const text = needString("test", name);
  const rest = args.positional.slice(skip + 1);
  const plain = templateTests.get(text);
  if (plain !== undefined && rest.length === 0) return (value) => plain(value, null);
  const withArgument = argumentTests.get(text);
  const [argument] = rest;
  if (withArgument !== undefined && argument !== undefined && rest.length === 1) return (value) => withArgument(value, argument);
  throw new TemplateUnsupported(`test ${text} with ${rest.length} arguments`);
}

function selector(keep: boolean, byAttribute: boolean): Filter {
  return (value, args, name) => {
    // Jinja2 does not walk what is false, None included.
    if (!truthy(value)) return new Generator([]);
    let read = (candidate: Value): Value => candidate;
    if (byAttribute) {
      const path = args.positional[0];
      if (path === undefined) throw new TemplateRaised(`${name}: missing attribute name`);
      read = getter(path);
    }
    const test = testArguments(args, byAttribute ? 1 : 0);
    return new Generator(iterate(value).filter((candidate) => test(read(candidate)) === keep));
  };
}

const map: Filter = (value, args) => {
  const [filterName, ...rest] = args.positional;
  if (!truthy(value)) return new Generator([]);
  if (filterName === undefined) {
    const bound = bind("map", ["attribute", "default"], { positional: [], named: args.named });
    const read = getter(need("map", bound, "attribute"), bound.get("default") ?? null);
    return new Generator(iterate(value).map(read));
  }
  const name = needString("map", filterName);
  const filter = templateFilters.get(name);
  if (filter === undefined) throw new TemplateUnsupported(`filter ${name}`);
  return new Generator(iterate(value).map((entry) => filter(entry, { positional: rest, named: args.named }, name)));
};

function sorted(items: readonly Value[], key: (value: Value) => Value, reverse: boolean): Value[] {
  const keyed = items.map((value): [Value, Value] => [key(value), value]);
  // Python's reverse sort keeps equal items in their order.
  keyed.sort(([a], [b]) => (equals(a, b) ? 0 : reverse ? compare(b, a, "<") : compare(a, b, "<")));
  return keyed.map(([, value]) => value);
}

const sort: Filter = (value, args) => {
  const bound = bind("sort", ["reverse", "case_sensitive", "attribute"], args);
  const path = bound.get("attribute") ?? null;
  if (typeof path === "string" && path.includes(",")) throw new TemplateUnsupported("sorting by several attributes");
  const read = path === null ? (entry: Value): Value => entry : getter(path);
  const fold = !truthy(bound.get("case_sensitive") ?? false);
  return sorted(iterate(value), (entry) => (fold ? lowered(read(entry)) : read(entry)), truthy(bound.get("reverse") ?? false));
};

const dictsort: Filter = (value, args) => {
  const bound = bind("dictsort", ["case_sensitive", "by", "reverse"], args);
  if (!(value instanceof Map)) throw new TemplateRaised(`'${typeName(value)}' object has no attribute 'items'`);
  const by = bound.get("by") ?? "key";
  if (by !== "key" && by !== "value") throw new TemplateRaised('You can only sort by either "key" or "value"');
  const fold = !truthy(bound.get("case_sensitive") ?? false);
  const entries = [...value].map(([key, entry]) => new Tuple([key, entry]));
  const read = (entry: Value): Value => (entry instanceof Tuple ? (entry.items[by === "key" ? 0 : 1] ?? null) : entry);
  return sorted(entries, (entry) => (fold ? lowered(read(entry)) : read(entry)), truthy(bound.get("reverse") ?? false));
};

const unique: Filter = (value, args) => {
  const bound = bind("unique", ["case_sensitive", "attribute"], args);
  const path = bound.get("attribute") ?? null;
  const read = path === null ? (entry: Value): Value => entry : getter(path);
  const fold = !truthy(bound.get("case_sensitive") ?? false);
  const seen: Value[] = [];
  const kept = iterate(value).filter((entry) => {
    const key = fold ? lowered(read(entry)) : read(entry);
    if (seen.some((other) => equals(other, key))) return false;
    seen.push(key);
    return true;
  });
  return new Generator(kept);
};

function extreme(smallest: boolean): Filter {
  return (value, args, name) => {
    const bound = bind(name, ["case_sensitive", "attribute"], args);
    const path = bound.get("attribute") ?? null;
    const read = path === null ? (entry: Value): Value => entry : getter(path);
    const fold = !truthy(bound.get("case_sensitive") ?? false);
    const key = (entry: Value): Value => (fold ? lowered(read(entry)) : read(entry));
    const [first, ...rest] = iterate(value);
    if (first === undefined) return new Undefined("No aggregated item, sequence was empty.");
    return rest.reduce((best, entry) => {
      const order = compare(key(entry), key(best), "<");
      return (smallest ? order < 0 : order > 0) ? entry : best;
    }, first);
  };
}

const groupby: Filter = (value, args) => {
  const bound = bind("groupby", ["attribute", "default", "case_sensitive"], args);
  if (bound.has("case_sensitive")) throw new TemplateUnsupported("groupby with case_sensitive");
  const read = getter(need("groupby", bound, "attribute"), bound.get("default") ?? null);
  const groups: { key: Value; entries: Value[] }[] = [];
  for (const entry of sorted(iterate(value), (candidate) => lowered(read(candidate)), false)) {
    const key = read(entry);
    const last = groups.at(-1);
    if (last !== undefined && equals(lowered(last.key), lowered(key))) last.entries.push(entry);
    else groups.push({ key, entries: [entry] });
  }
  return groups.map(({ key, entries }) => new GroupTuple([key, entries]));
};

const tojson: Filter = (value, args) => {
  const bound = bind("tojson", ["ensure_ascii", "indent", "separators", "sort_keys"], args);
  const indent = bound.get("indent") ?? null;
  const separators = bound.get("separators") ?? null;
  let itemSeparator = indent === null ? ", " : ",";
  let keySeparator = ": ";
  if (separators !== null) {
    const [first, second] = iterate(separators);
    itemSeparator = needString("tojson", first ?? null);
    keySeparator = needString("tojson", second ?? null);
  }
  const options: JsonOptions = {
    ensureAscii: truthy(bound.get("ensure_ascii") ?? false),
    indent: indent === null ? null : typeof indent === "string" ? indent : " ".repeat(Math.max(0, needIndex("tojson", indent))),
    itemSeparator,
    keySeparator,
    sortKeys: truthy(bound.get("sort_keys") ?? false),
  };
  return toJson(value, options);
};

const indentText: Filter = (value, args) => {
  const bound = bind("indent", ["width", "first", "blank"], args);
  const width = bound.get("width") ?? 4;
  const space = typeof width === "string" ? width : " ".repeat(Math.max(0, needIndex("indent", width)));
  const text = `${needString("indent", value)}\n`;
  const blank = truthy(bound.get("blank") ?? false);
  // Jinja2 adds a newline, so that splitlines keeps a last empty line, and joins with newlines.
  const lines = text.split(LINE_BREAK);
  lines.pop();
  const [head = "", ...rest] = lines;
  const tail = rest.map((line) => (blank || line !== "" ? space + line : line));
  const first = truthy(bound.get("first") ?? false) ? space : "";
  return first + (blank && rest.length > 0 ? [head, ...rest].join(`\n${space}`) : [head, ...tail].join("\n"));
};

const integer: Filter = (value, args) => {
  const bound = bind("int", ["default", "base"], args);
  const given = bound.get("default");
  const fallback = given === undefined ? 0 : given;
  if (bound.has("base") && bound.get("base") !== 10) throw new TemplateUnsupported("int with a base");
  if (isInt(value)) return toInt(BigInt(value));
  if (value instanceof PythonFloat) return Number.isFinite(value.value) ? toInt(BigInt(Math.trunc(value.value))) : fallback;
  if (value instanceof Undefined) raiseUndefined(value);
  if (typeof value !== "string") return fallback;
  const text = strip(value, "both");
  if (/^[+-]?[0-9]+(_[0-9]+)*$/.test(text)) return toInt(BigInt(text.replaceAll("_", "").replace(/^\+/, "")));
  const number = parseFloatText(text);
  return number === null || !Number.isFinite(number) ? fallback : toInt(BigInt(Math.trunc(number)));
};

function parseFloatText(text: string): number | null {
  return /^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$/.test(text) ? Number(text) : null;
}

const float: Filter = (value, args) => {
  const fallback = bind("float", ["default"], args).get("default") ?? new PythonFloat(0);
  if (isNumber(value)) return new PythonFloat(toFloat(value));
  if (value instanceof Undefined) raiseUndefined(value);
  const number = typeof value === "string" ? parseFloatText(strip(value, "both")) : null;
  return number === null ? fallback : new PythonFloat(number);
};

const round: Filter = (value, args) => {
  const bound = bind("round", ["precision", "method"], args);
  if ((bound.get("precision") ?? 0) !== 0) throw new TemplateUnsupported("round with a precision");
  const method = bound.get("method") ?? "common";
  if (!isNumber(value)) throw new TemplateRaised(`type ${typeName(value)} doesn't define __round__ method`);
  const number = toFloat(value);
  if (method === "ceil") return new PythonFloat(Math.ceil(number));
  if (method === "floor") return new PythonFloat(Math.floor(number));
  if (isInt(value)) return value;
  const nearest = Math.round(number);
  return new PythonFloat(Math.abs(number % 1) === 0.5 && nearest % 2 !== 0 ? nearest - 1 : nearest);
};

const join: Filter = (value, args) => {
  const bound = bind("join", ["d", "attribute"], args);
  const path = bound.get("attribute") ?? null;
  const read = path === null ? (entry: Value): Value => entry : getter(path);
  const parts = [...iterate(value)].map(read);
  const glue = bound.get("d") ?? "";
  for (const part of [...parts, glue]) refuseMarkup(part, "join");
  return parts.map(str).join(str(glue));
};

const defaultFilter: Filter = (value, args) => {
  const bound = bind("default", ["default_value", "boolean"], args);
  const use = value instanceof Undefined || (truthy(bound.get("boolean") ?? false) && !truthy(value));
  if (!use) return value;
  const replacement = bound.get("default_value");
  return replacement === undefined ? "" : replacement;
};

const length: Filter = (value) => {
  if (typeof value === "string") return stringLength(value);
  if (value instanceof Map) return value.size;
  if (Array.isArray(value)) return value.length;
  if (value instanceof Tuple || value instanceof DictView) return value.items.length;
  if (value instanceof Markup) return stringLength(value.text);
  if (value instanceof Undefined) return 0;
  throw new TemplateRaised(`object of type '${typeName(value)}' has no len()`);
};

const batch: Filter = (value, args) => {
  const bound = bind("batch", ["linecount", "fill_with"], args);
  const size = needIndex("batch", need("batch", bound, "linecount"));
  if (size < 1) throw new TemplateUnsupported("batch of less than 1");
  const items = iterate(value);
  const rows: Value[] = [];
  for (let i = 0; i < items.length; i += size) rows.push(items.slice(i, i + size));
  const fill = bound.get("fill_with") ?? null;
  const last = rows.at(-1);
  if (fill !== null && Array.isArray(last)) while (last.length < size) last.push(fill);
  return new Generator(rows);
};

const sum: Filter = (value, args) => {
  const bound = bind("sum", ["attribute", "start"], args);
  const path = bound.get("attribute") ?? null;
  const read = path === null ? (entry: Value): Value => entry : getter(path);
  return iterate(value).reduce<Value>((total, entry) => arithmetic("+", total, read(entry)), bound.get("start") ?? 0);
};

const trim: Filter = (value, args) => {
  refuseMarkup(value, "trim");
  const chars = bind("trim", ["chars"], args).get("chars") ?? null;
  return strip(str(value), "both", chars === null ? null : needString("trim", chars));
};

const replace: Filter = (value, args) => {
  const bound = bind("replace", ["old", "new", "count"], args);
  for (const part of [value, ...bound.values()]) refuseMarkup(part, "replace");
  const count = bound.get("count") ?? null;
  return replaceString(
    str(value),
    str(need("replace", bound, "old")),
    str(need("replace", bound, "new")),
    count === null ? -1 : needIndex("replace", count),
  );
};

/** Jinja2's title filter: words begin after whitespace, `-`, brackets and `<`. */
function titleFilter(text: string): string {
  return text
    .split(/([-\s({[<]+)/)
    .map((word) => (word === "" ? "" : (Array.from(word)[0] ?? "").toUpperCase() + lower(Array.from(word).slice(1).join(""))))
    .join("");
}

/** Filters that would keep or lose the mark of `safe` are not reproduced on such text. */
function refuseMarkup(value: Value, name: string): void {
  if (value instanceof Markup) throw new TemplateUnsupported(`filter ${name} on marked-up text`);
}

function onText(convert: (text: string) => Value): Filter {
  return (value, args, name) => {
    bind(name, [], args);
    refuseMarkup(value, name);
    return convert(str(value));
  };
}

const items: Filter = (value) => {
  if (value instanceof Undefined) return new Generator([]);
  if (!(value instanceof Map)) throw new TemplateRaised("Can only get item pairs from a mapping.");
  return new Generator([...(value as Dict)].map(([key, entry]) => new Tuple([key, entry])));
};

const reverse: Filter = (value) => {
  const reversed = [...iterate(value)].reverse();
  if (typeof value === "string") return reversed.join("");
  return value instanceof Generator || value instanceof Undefined ? reversed : new Generator(reversed);
};
const first: Filter = (value) => {
  const found = value instanceof Generator ? value.next() : iterate(value)[0];
  return found === undefined ? new Undefined("No first item, sequence was empty.") : found;
};
const last: Filter = (value) => {
  if (value instanceof Generator) throw new TemplateRaised("'generator' object is not reversible");
  const found = iterate(value).at(-1);
  return found === undefined ? new Undefined("No last item, sequence was empty.") : found;
};

const abs: Filter = (value) => {
  if (value instanceof PythonFloat) return new PythonFloat(Math.abs(value.value));
  if (isInt(value)) return toInt(BigInt(value) < 0n ? -BigInt(value) : BigInt(value));
  throw new TemplateRaised(`bad operand type for abs(): '${typeName(value)}'`);
};

/** Jinja2 3.1 filters, and transformers' own `tojson`. */
export const templateFilters: ReadonlyMap<string, Filter> = new Map<string, Filter>([
  ["abs", abs],
  ["attr", (value, args) => attribute(value, needString("attr", need("attr", bind("attr", ["name"], args), "name")))],
  ["batch", batch],
  ["capitalize", onText(capitalize)],
  ["count", length],
  ["d", defaultFilter],
  ["default", defaultFilter],
  ["dictsort", dictsort],
  ["first", first],
  ["float", float],
  ["groupby", groupby],
  ["indent", indentText],
  ["int", integer],
  ["items", items],
  ["join", join],
  ["last", last],
  ["length", length],
  ["list", (value) => [...iterate(value)]],
  ["lower", onText(lower)],
  ["map", map],
  ["max", extreme(false)],
  ["min", extreme(true)],
  ["reject", selector(false, false)],
  ["rejectattr", selector(false, true)],
  ["replace", replace],
  ["reverse", reverse],
  ["round", round],
  ["safe", (value) => (value instanceof Markup ? value : new Markup(str(value)))],
  ["select", selector(true, false)],
  ["selectattr", selector(true, true)],
  ["sort", sort],
  ["string", (value) => (value instanceof Markup ? value : str(value))],
  ["sum", sum],
  ["title", onText(titleFilter)],
  ["tojson", tojson],
  ["trim", trim],
  ["unique", unique],
  ["upper", onText((text) => text.toUpperCase())],
]);
