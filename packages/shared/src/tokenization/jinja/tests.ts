import { PythonFloat } from "../python-float.ts";
import { contains, equals } from "./operators.ts";
import {
  Callable,
  DictView,
  Generator,
  isInt,
  isNumber,
  Markup,
  TemplateRaised,
  Tuple,
  toInt,
  typeName,
  Undefined,
  type Value,
} from "./values.ts";

type Test = (value: Value, argument: Value) => boolean;

function parity(odd: boolean): Test {
  return (value) => {
    if (value instanceof PythonFloat) return (((value.value % 2) + 2) % 2 === 1) === odd && Number.isInteger(value.value);
    if (!isInt(value)) throw new TemplateRaised(`unsupported operand type for %: '${typeName(value)}'`);
    return (BigInt(value) % 2n !== 0n) === odd;
  };
}

/** Undefined has a length and can be indexed, as far as Python's types go. */
function isSequence(value: Value): boolean {
  return (
    typeof value === "string" ||
    Array.isArray(value) ||
    value instanceof Map ||
    value instanceof Tuple ||
    value instanceof Markup ||
    value instanceof Undefined
  );
}

/** Jinja2's tests; those that take an argument are used by select and reject only, the parser knows no others. */
export const templateTests: ReadonlyMap<string, Test> = new Map<string, Test>([
  ["defined", (value) => !(value instanceof Undefined)],
  ["undefined", (value) => value instanceof Undefined],
  ["none", (value) => value === null],
  ["string", (value) => typeof value === "string" || value instanceof Markup],
  ["boolean", (value) => typeof value === "boolean"],
  ["true", (value) => value === true],
  ["false", (value) => value === false],
  ["number", isNumber],
  ["integer", (value) => typeof value === "number" || typeof value === "bigint"],
  ["float", (value) => value instanceof PythonFloat],
  ["mapping", (value) => value instanceof Map],
  ["sequence", isSequence],
  ["iterable", (value) => isSequence(value) || value instanceof DictView || value instanceof Generator],
  ["callable", (value) => value instanceof Callable || value instanceof Undefined],
  ["odd", parity(true)],
  ["even", parity(false)],
  ["lower", (value) => typeof value === "string" && value === value.toLowerCase() && value !== value.toUpperCase()],
  ["upper", (value) => typeof value === "string" && value === value.toUpperCase() && value !== value.toLowerCase()],
]);

/** Tests with one argument. */
export const argumentTests: ReadonlyMap<string, Test> = new Map<string, Test>([
  ["equalto", equals],
  ["eq", equals],
  ["==", equals],
  ["ne", (value, argument) => !equals(value, argument)],
  ["!=", (value, argument) => !equals(value, argument)],
  ["in", (value, argument) => contains(argument, value)],
  [
    "divisibleby",
    (value, argument) => {
      if (!isInt(value) || !isInt(argument)) throw new TemplateRaised(`unsupported operand type for %: '${typeName(value)}'`);
      if (BigInt(argument) === 0n) throw new TemplateRaised("integer modulo by zero");
      return toInt(BigInt(value) % BigInt(argument)) === 0;
    },
  ],
]);
