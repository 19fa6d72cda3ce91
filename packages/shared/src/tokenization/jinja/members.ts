import { bind, need, needIndex } from "./arguments.ts";
import { equals, isDictKey } from "./operators.ts";
import { stringMethods, unsupportedStringMethods } from "./strings.ts";
import {
  type CallArguments,
  Callable,
  codePoints,
  type Dict,
  DictView,
  GroupTuple,
  isInt,
  LoopState,
  Markup,
  Namespace,
  raiseUndefined,
  TemplateRaised,
  TemplateUnsupported,
  Tuple,
  typeName,
  Undefined,
  type Value,
} from "./values.ts";

/** A method that takes no arguments. */
function plain(name: string, read: (dict: Dict) => Value): (dict: Dict, args: CallArguments) => Value {
  return (dict, args) => {
    bind(name, [], args);
    return read(dict);
  };
}

const dictMethods: ReadonlyMap<string, (dict: Dict, args: CallArguments) => Value> = new Map([
  [
    "items",
    plain(
      "items",
      (dict) =>
        new DictView(
          "dict_items",
          [...dict].map(([key, value]) => new Tuple([key, value])),
        ),
    ),
  ],
  ["keys", plain("keys", (dict) => new DictView("dict_keys", [...dict.keys()]))],
  ["values", plain("values", (dict) => new DictView("dict_values", [...dict.values()]))],
  ["copy", plain("copy", (dict) => new Map(dict))],
  [
    "get",
    (dict, args) => {
      const bound = bind("get", ["key", "default"], args);
      const key = need("get", bound, "key");
      if (!isDictKey(key)) throw new TemplateRaised(`unhashable type: '${typeName(key)}'`);
      const found = dict.get(key);
      return found === undefined ? (bound.get("default") ?? null) : found;
    },
  ],
]);

/** Attributes of `dict` that win over keys of the same name in dot access, and raise or are not reproduced. */
const blockedDictMethods: ReadonlySet<string> = new Set(["clear", "fromkeys", "pop", "popitem", "setdefault", "update"]);
/** Methods of `list` the immutable sandbox refuses. */
const blockedListMethods: ReadonlySet<string> = new Set(["append", "clear", "extend", "insert", "pop", "remove", "reverse", "sort"]);

const sequenceMethods: ReadonlyMap<string, (items: readonly Value[], args: CallArguments) => Value> = new Map([
  ["count", (items, args) => items.filter((item) => equals(item, need("count", bind("count", ["value"], args), "value"))).length],
  [
    "index",
    (items, args) => {
      const wanted = need("index", bind("index", ["value"], args), "value");
      const at = items.findIndex((item) => equals(item, wanted));
      if (at < 0) throw new TemplateRaised("value is not in list");
      return at;
    },
  ],
]);

/** Names that call expressions may use after a dot on some type; others are keys. */
export function isSupportedMethod(name: string): boolean {
  return !unsupportedStringMethods.has(name);
}

/** `object.name`: attribute first, then key (Jinja2's getattr). */
export function attribute(object: Value, name: string): Value {
  if (object instanceof Undefined) raiseUndefined(object);
  if (name.startsWith("__")) throw new TemplateUnsupported(`attribute ${name}`);
  const method = methodOf(object, name);
  if (method !== null) return method;
  if (object instanceof Map) return present(object.get(name), object, name);
  if (object instanceof Namespace) return present(object.attributes.get(name), object, name);
  if (object instanceof GroupTuple && (name === "grouper" || name === "list")) return object.items[name === "list" ? 1 : 0] ?? null;
  if (object instanceof Markup) throw new TemplateUnsupported(`attribute ${name} of marked-up text`);
  if (object instanceof LoopState) return loopAttribute(object, name);
  if (object instanceof Callable) throw new TemplateUnsupported(`attribute ${name} of a function`);
  if (isInt(object)) return intAttribute(object, name);
  return missing(object, name);
}

function intAttribute(object: Value, name: string): Value {
  if (
    [
      "real",
      "imag",
      "numerator",
      "denominator",
      "bit_length",
      "conjugate",
      "to_bytes",
      "from_bytes",
      "as_integer_ratio",
      "bit_count",
      "is_integer",
    ].includes(name)
  ) {
    throw new TemplateUnsupported(`attribute ${name} of an int`);
  }
  return missing(object, name);
}

function methodOf(object: Value, name: string): Callable | null {
  if (typeof object === "string") {
    const method = stringMethods.get(name);
    if (method !== undefined) return new Callable(name, (args) => method(object, args, name));
    if (unsupportedStringMethods.has(name)) throw new TemplateUnsupported(`str.${name}`);
    return null;
  }
  if (object instanceof Map) {
    const method = dictMethods.get(name);
    if (method !== undefined) return new Callable(name, (args) => method(object, args));
    if (blockedDictMethods.has(name)) return blocked("dict", name);
    return null;
  }
  if (Array.isArray(object) || object instanceof Tuple) {
    const items = Array.isArray(object) ? object : object.items;
    const method = sequenceMethods.get(name);
    if (method !== undefined) return new Callable(name, (args) => method(items, args));
    if (Array.isArray(object) && name === "copy") return new Callable(name, () => [...items]);
    if (Array.isArray(object) && blockedListMethods.has(name)) return blocked("list", name);
  }
  return null;
}

function blocked(type: string, name: string): Callable {
  return new Callable(name, () => {
    throw new TemplateRaised(`access to attribute '${name}' of '${type}' object is unsafe.`);
  });
}

/** A value that may be None, or Undefined when there is none. */
function present(value: Value | undefined, object: Value, name: string): Value {
  return value === undefined ? missing(object, name) : value;
}

function missing(object: Value, name: string): Undefined {
  return new Undefined(`'${typeName(object)} object' has no attribute '${name}'`);
}

function loopAttribute(loop: LoopState, name: string): Value {
  const { index0, items } = loop;
  switch (name) {
    case "index0":
      return index0;
    case "index":
      return index0 + 1;
    case "revindex":
      return items.length - index0;
    case "revindex0":
      return items.length - index0 - 1;
    case "first":
      return index0 === 0;
    case "last":
      return index0 === items.length - 1;
    case "length":
      return items.length;
    case "depth":
      return loop.depth;
    case "depth0":
      return loop.depth - 1;
    case "previtem":
      return present(items[index0 - 1], loop, name);
    case "nextitem":
      return present(items[index0 + 1], loop, name);
    case "cycle":
      return new Callable(name, ({ positional }) => {
        if (positional.length === 0) throw new TemplateRaised("no items for cycling given");
        return positional[index0 % positional.length] ?? null;
      });
    case "changed":
      return new Callable(name, ({ positional }) => {
        const now = new Tuple(positional);
        const changed = loop.lastChanged === null || !equals(loop.lastChanged, now);
        if (changed) loop.lastChanged = now;
        return changed;
      });
    default:
      return missing(loop, name);
  }
}

/** `object[key]`: item first, then attribute (Jinja2's getitem). */
export function item(object: Value, key: Value): Value {
  if (object instanceof Undefined) raiseUndefined(object);
  if (object instanceof Map) {
    if (!isDictKey(key)) return missing(object, typeName(key));
    const found = object.get(key);
    if (found !== undefined) return found;
  } else if (isInt(key) && (typeof object === "string" || Array.isArray(object) || object instanceof Tuple)) {
    const items = typeof object === "string" ? codePoints(object) : Array.isArray(object) ? object : object.items;
    const index = Number(key);
    return present(items[index < 0 ? items.length + index : index], object, String(index));
  }
  if (typeof key === "string") return object instanceof Map ? (methodOf(object, key) ?? missing(object, key)) : attribute(object, key);
  return missing(object, typeName(key));
}

/** `object[start:stop:step]`. */
export function slice(object: Value, start: Value, stop: Value, step: Value): Value {
  if (object instanceof Undefined) raiseUndefined(object);
  if (typeof object === "string") return sliceItems(codePoints(object), start, stop, step).join("");
  if (Array.isArray(object)) return sliceItems(object, start, stop, step);
  if (object instanceof Tuple) return new Tuple(sliceItems(object.items, start, stop, step));
  return missing(object, "slice");
}

function sliceItems<T>(items: readonly T[], start: Value, stop: Value, step: Value): T[] {
  const by = step === null ? 1 : needIndex("slice", step);
  if (by === 0) throw new TemplateRaised("slice step cannot be zero");
  const length = items.length;
  const bound = (value: Value, whole: number): number => {
    if (value === null) return whole;
    const index = needIndex("slice", value);
    const absolute = index < 0 ? length + index : index;
    return by > 0 ? Math.min(Math.max(absolute, 0), length) : Math.min(Math.max(absolute, -1), length - 1);
  };
  const from = bound(start, by > 0 ? 0 : length - 1);
  const to = bound(stop, by > 0 ? length : -1);
  if (by === 1) return items.slice(from, to);
  const result: T[] = [];
  for (let i = from; by > 0 ? i < to : i > to; i += by) {
    const value = items[i];
    if (value !== undefined) result.push(value);
  }
  return result;
}
