import { PythonFloat } from "../python-float.ts";
import { compareCodePoints, str } from "./printing.ts";
import {
  type DictKey,
  isInt,
  isNumber,
  iterate,
  Markup,
  raiseUndefined,
  TemplateRaised,
  TemplateUnsupported,
  Tuple,
  toFloat,
  toInt,
  typeName,
  Undefined,
  type Value,
} from "./values.ts";

/** Longest text or list a repetition may build. */
const MAX_REPEATED = 10_000_000;

/** Python's `==`. */
export function equals(a: Value, b: Value): boolean {
  if (a === b) return true;
  if (isNumber(a) && isNumber(b)) {
    if (isInt(a) && isInt(b)) return BigInt(a) === BigInt(b);
    return toFloat(a) === toFloat(b);
  }
  if (Array.isArray(a) && Array.isArray(b)) return sameItems(a, b);
  if (a instanceof Tuple && b instanceof Tuple) return sameItems(a.items, b.items);
  if (a instanceof Map && b instanceof Map) {
    if (a.size !== b.size) return false;
    for (const [key, item] of a) {
      const other = b.get(key);
      if (other === undefined || !equals(item, other)) return false;
    }
    return true;
  }
  if (isText(a) && isText(b)) return str(a) === str(b);
  return a instanceof Undefined && b instanceof Undefined;
}

function isText(value: Value): value is string | Markup {
  return typeof value === "string" || value instanceof Markup;
}

/** Text of a Markup, or a string escaped as markupsafe does. */
function markupText(value: string | Markup): string {
  if (value instanceof Markup) return value.text;
  return value.replaceAll("&", "&amp;").replaceAll(">", "&gt;").replaceAll("<", "&lt;").replaceAll("'", "&#39;").replaceAll('"', "&#34;");
}

function sameItems(a: readonly Value[], b: readonly Value[]): boolean {
  return a.length === b.length && a.every((item, i) => equals(item, b[i] ?? null));
}

/** Python's ordering: negative, 0 or positive. Raises for types that have none. */
export function compare(a: Value, b: Value, operator: string): number {
  if (isNumber(a) && isNumber(b)) {
    if (isInt(a) && isInt(b)) {
      const [x, y] = [BigInt(a), BigInt(b)];
      return x < y ? -1 : x > y ? 1 : 0;
    }
    return toFloat(a) - toFloat(b);
  }
  if (typeof a === "string" && typeof b === "string") return compareCodePoints(a, b);
  const [left, right] = [a instanceof Tuple ? a.items : a, b instanceof Tuple ? b.items : b];
  if (Array.isArray(left) && Array.isArray(right) && Array.isArray(a) === Array.isArray(b)) {
    for (let i = 0; i < Math.min(left.length, right.length); i++) {
      const [x, y] = [left[i] ?? null, right[i] ?? null];
      if (!equals(x, y)) return compare(x, y, operator);
    }
    return left.length - right.length;
  }
  if (a instanceof Undefined) raiseUndefined(a);
  if (b instanceof Undefined) raiseUndefined(b);
  throw new TemplateRaised(`'${operator}' not supported between instances of '${typeName(a)}' and '${typeName(b)}'`);
}

/** Python's `item in container`. */
export function contains(container: Value, item: Value): boolean {
  if (typeof container === "string") {
    if (typeof item !== "string") throw new TemplateRaised(`'in <string>' requires string as left operand, not ${typeName(item)}`);
    return container.includes(item);
  }
  if (container instanceof Map) {
    if (!isDictKey(item)) throw new TemplateRaised(`unhashable type: '${typeName(item)}'`);
    return container.has(item);
  }
  return iterate(container).some((candidate) => equals(candidate, item));
}

export function isDictKey(value: Value): value is DictKey {
  return value === null || typeof value === "string" || isInt(value);
}

/** `+ - * / // % **` on Python values. */
export function arithmetic(operator: string, a: Value, b: Value): Value {
  if (isNumber(a) && isNumber(b))
    return isInt(a) && isInt(b) ? intArithmetic(operator, a, b) : floatArithmetic(operator, toFloat(a), toFloat(b));
  if (operator === "+") {
    if ((a instanceof Markup || b instanceof Markup) && isText(a) && isText(b)) return new Markup(markupText(a) + markupText(b));
    if (typeof a === "string" && typeof b === "string") return a + b;
    if (Array.isArray(a) && Array.isArray(b)) return [...a, ...b];
    if (a instanceof Tuple && b instanceof Tuple) return new Tuple([...a.items, ...b.items]);
  }
  if (operator === "*") {
    const repeated = repeat(a, b) ?? repeat(b, a);
    if (repeated !== null) return repeated;
  }
  if (operator === "%" && typeof a === "string") throw new TemplateUnsupported("formatting with %");
  if (a instanceof Undefined) raiseUndefined(a);
  if (b instanceof Undefined) raiseUndefined(b);
  if (operator === "+" && typeof a === "string") throw new TemplateRaised(`can only concatenate str (not "${typeName(b)}") to str`);
  throw new TemplateRaised(`unsupported operand type(s) for ${operator}: '${typeName(a)}' and '${typeName(b)}'`);
}

function repeat(sequence: Value, times: Value): Value | null {
  if (!isInt(times)) return null;
  const count = Math.max(0, Number(times));
  if (typeof sequence === "string") {
    if (sequence.length * count > MAX_REPEATED) throw new TemplateUnsupported(`a string of more than ${MAX_REPEATED} characters`);
    return sequence.repeat(count);
  }
  if (!Array.isArray(sequence)) return null;
  if (sequence.length * count > MAX_REPEATED) throw new TemplateUnsupported(`a list of more than ${MAX_REPEATED} items`);
  return Array.from({ length: count }, () => sequence).flat();
}

function intArithmetic(operator: string, a: number | bigint | boolean, b: number | bigint | boolean): Value {
  const [x, y] = [BigInt(a), BigInt(b)];
  switch (operator) {
    case "+":
      return toInt(x + y);
    case "-":
      return toInt(x - y);
    case "*":
      return toInt(x * y);
    case "/":
      if (y === 0n) throw new TemplateRaised("division by zero");
      return new PythonFloat(Number(x) / Number(y));
    case "//":
    case "%": {
      if (y === 0n) throw new TemplateRaised("integer division or modulo by zero");
      const remainder = ((x % y) + y) % y;
      return toInt(operator === "%" ? remainder : (x - remainder) / y);
    }
    case "**":
      if (y < 0n) return new PythonFloat(Number(x) ** Number(y));
      if (y > 4096n) throw new TemplateUnsupported("an exponent above 4096");
      return toInt(x ** y);
    default:
      throw new TemplateUnsupported(`operator ${operator}`);
  }
}

function floatArithmetic(operator: string, x: number, y: number): Value {
  switch (operator) {
    case "+":
      return new PythonFloat(x + y);
    case "-":
      return new PythonFloat(x - y);
    case "*":
      return new PythonFloat(x * y);
    case "/":
      if (y === 0) throw new TemplateRaised("float division by zero");
      return new PythonFloat(x / y);
    case "//":
      if (y === 0) throw new TemplateRaised("float floor division by zero");
      return new PythonFloat(Math.floor(x / y));
    case "%":
      if (y === 0) throw new TemplateRaised("float modulo");
      return new PythonFloat(((x % y) + y) % y);
    case "**":
      return new PythonFloat(x ** y);
    default:
      throw new TemplateUnsupported(`operator ${operator}`);
  }
}

/** Unary `-` and `+`. */
export function sign(operator: string, value: Value): Value {
  if (value instanceof PythonFloat) return operator === "-" ? new PythonFloat(-value.value) : value;
  if (isInt(value)) return toInt(operator === "-" ? -BigInt(value) : BigInt(value));
  if (value instanceof Undefined) raiseUndefined(value);
  throw new TemplateRaised(`bad operand type for unary ${operator}: '${typeName(value)}'`);
}
