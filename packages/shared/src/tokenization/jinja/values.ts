import { PythonFloat } from "../python-float.ts";

/** Keys a template's dicts may have. */
export type DictKey = string | number | bigint | boolean | null;
export type Dict = Map<DictKey, Value>;

/**
 * A value of a template, with Python's distinctions: `number`/`bigint` are ints (number while safe), floats are PythonFloat,
 * null is None, arrays are lists, Maps are dicts.
 */
export type Value =
  | null
  | boolean
  | number
  | bigint
  | PythonFloat
  | string
  | Value[]
  | Tuple
  | DictView
  | Generator
  | Markup
  | Dict
  | Undefined
  | Namespace
  | Callable
  | LoopState;

/** Jinja2's `Undefined`: false, empty, prints nothing; using it in any other way raises. */
export class Undefined {
  readonly hint: string;

  constructor(hint: string) {
    this.hint = hint;
  }
}

export class Tuple {
  readonly items: readonly Value[];

  constructor(items: readonly Value[]) {
    this.items = items;
  }
}

/** One group of the groupby filter: a tuple whose parts have names. */
export class GroupTuple extends Tuple {}

/** `dict.items()` and its siblings: a container that is neither a list nor printable as one. */
export class DictView {
  readonly kind: string;
  readonly items: readonly Value[];

  constructor(kind: string, items: readonly Value[]) {
    this.kind = kind;
    this.items = items;
  }
}

/** What lazy filters return (map, select, ...): always true, without length, and empty after one walk. */
export class Generator {
  #rest: readonly Value[];

  constructor(items: readonly Value[]) {
    this.#rest = items;
  }

  /** Everything that is left. */
  take(): readonly Value[] {
    const items = this.#rest;
    this.#rest = [];
    return items;
  }

  /** The next item; undefined at the end. */
  next(): Value | undefined {
    const [first, ...rest] = this.#rest;
    this.#rest = rest;
    return first;
  }
}

/** Text marked by the `safe` filter: text joined to it is HTML-escaped. */
export class Markup {
  readonly text: string;

  constructor(text: string) {
    this.text = text;
  }
}

/** `namespace()`: the one object whose attributes a template may set. */
export class Namespace {
  readonly attributes = new Map<string, Value>();
}

export interface CallArguments {
  readonly positional: readonly Value[];
  readonly named: ReadonlyMap<string, Value>;
}

/** A macro, global function or bound method. */
export class Callable {
  readonly name: string;
  readonly call: (args: CallArguments) => Value;

  constructor(name: string, call: (args: CallArguments) => Value) {
    this.name = name;
    this.call = call;
  }
}

/** The `loop` variable. */
export class LoopState {
  readonly items: readonly Value[];
  readonly depth: number;
  index0 = 0;
  /** Value of the previous `loop.changed(...)`. */
  lastChanged: Tuple | null = null;

  constructor(items: readonly Value[], depth: number) {
    this.items = items;
    this.depth = depth;
  }
}

/** The template raised, as Jinja2 or Python would: the engine answers 400. */
export class TemplateRaised extends Error {
  override readonly name = "TemplateRaised";
}

/** The template uses something this renderer does not reproduce: it must not be rendered here. */
export class TemplateUnsupported extends Error {
  override readonly name = "TemplateUnsupported";
}

export function raiseUndefined(value: Undefined): never {
  throw new TemplateRaised(`${value.hint} is undefined`);
}

export function isInt(value: Value): value is number | bigint | boolean {
  return typeof value === "number" || typeof value === "bigint" || typeof value === "boolean";
}

export function isNumber(value: Value): value is number | bigint | boolean | PythonFloat {
  return isInt(value) || value instanceof PythonFloat;
}

/** Any number as a JavaScript float. */
export function toFloat(value: number | bigint | boolean | PythonFloat): number {
  return value instanceof PythonFloat ? value.value : Number(value);
}

/** An int in its normal form. */
export function toInt(value: bigint): number | bigint {
  const small = Number(value);
  return Number.isSafeInteger(small) ? small : value;
}

/** Name of the Python type, for messages. */
export function typeName(value: Value): string {
  if (value === null) return "NoneType";
  if (typeof value === "boolean") return "bool";
  if (typeof value === "number" || typeof value === "bigint") return "int";
  if (typeof value === "string") return "str";
  if (value instanceof PythonFloat) return "float";
  if (Array.isArray(value)) return "list";
  if (value instanceof Map) return "dict";
  if (value instanceof Tuple) return "tuple";
  if (value instanceof Undefined) return "Undefined";
  if (value instanceof DictView) return value.kind;
  if (value instanceof Generator) return "generator";
  if (value instanceof Markup) return "Markup";
  if (value instanceof Namespace) return "Namespace";
  return value instanceof LoopState ? "LoopContext" : "function";
}

/** Python's truth value. */
export function truthy(value: Value): boolean {
  if (value === null || value instanceof Undefined) return false;
  if (typeof value === "object") {
    if (Array.isArray(value)) return value.length > 0;
    if (value instanceof Map) return value.size > 0;
    if (value instanceof Tuple || value instanceof DictView) return value.items.length > 0;
    if (value instanceof Markup) return value.text !== "";
    if (value instanceof PythonFloat) return value.value !== 0;
    return true;
  }
  return Boolean(value);
}

/** Code points of a string, without an array when there are only single units. */
export function codePoints(text: string): readonly string[] {
  return Array.from(text);
}

const SURROGATE = /[\ud800-\udfff]/;

/** Python's `len()` of a string. */
export function stringLength(text: string): number {
  return SURROGATE.test(text) ? codePoints(text).length : text.length;
}

/** What `for` and list-taking filters iterate over. */
export function iterate(value: Value): readonly Value[] {
  if (Array.isArray(value)) return value;
  if (typeof value === "string") return codePoints(value);
  if (value instanceof Map) return [...value.keys()];
  if (value instanceof Tuple || value instanceof DictView) return value.items;
  if (value instanceof Generator) return value.take();
  if (value instanceof Markup) return codePoints(value.text);
  if (value instanceof Undefined) return [];
  if (value instanceof LoopState) throw new TemplateUnsupported("iterating over the loop variable");
  throw new TemplateRaised(`'${typeName(value)}' object is not iterable`);
}
