import { PythonFloat } from "../python-float.ts";
import { NO_ARGUMENTS } from "./arguments.ts";
import { type Call, type Expression, type FilterUse, GROUP_FILTER, type Identifier, type Member } from "./ast.ts";
import { templateFilters } from "./filters.ts";
import { attribute, isSupportedMethod, item, slice } from "./members.ts";
import { arithmetic, compare, contains, equals, isDictKey, sign } from "./operators.ts";
import { str } from "./printing.ts";
import type { Scope } from "./scope.ts";
import { templateTests } from "./tests.ts";
import {
  type CallArguments,
  Callable,
  type Dict,
  iterate,
  raiseUndefined,
  TemplateRaised,
  TemplateUnsupported,
  Tuple,
  truthy,
  typeName,
  Undefined,
  type Value,
} from "./values.ts";

/** An expression ready to run. */
export type Evaluate = (scope: Scope) => Value;

const COMPARISONS: ReadonlySet<string> = new Set(["==", "!=", "<", ">", "<=", ">=", "in", "not in"]);
const CONSTANTS: ReadonlyMap<string, Value> = new Map([
  ["true", true],
  ["True", true],
  ["false", false],
  ["False", false],
  ["none", null],
  ["None", null],
]);

/**
 * Turns an expression into a function.
 *
 * @throws TemplateUnsupported for filters, tests, methods and forms that are not reproduced exactly.
 */
export function compileExpression(node: Expression): Evaluate {
  switch (node.type) {
    case "Identifier": {
      const constant = CONSTANTS.get(node.value);
      if (constant !== undefined) return () => constant;
      const name = node.value;
      return (scope) => scope.get(name);
    }
    case "StringLiteral":
      return constantly(node.value);
    case "IntegerLiteral":
      if (!Number.isSafeInteger(node.value)) throw new TemplateUnsupported(`integer literal ${node.value}`);
      return constantly(node.value);
    case "FloatLiteral":
      return constantly(new PythonFloat(node.value));
    case "ArrayLiteral": {
      const items = node.value.map(compileExpression);
      return (scope) => items.map((evaluate) => evaluate(scope));
    }
    case "TupleLiteral": {
      const items = node.value.map(compileExpression);
      return (scope) => new Tuple(items.map((evaluate) => evaluate(scope)));
    }
    case "ObjectLiteral":
      return compileDict(node.value);
    case "MemberExpression":
      return compileMember(node);
    case "CallExpression":
      return compileCall(node);
    case "FilterExpression":
      return compileFilter(node);
    case "TestExpression": {
      const test = templateTests.get(node.test.value);
      if (test === undefined) throw new TemplateUnsupported(`test ${node.test.value}`);
      const operand = compileExpression(node.operand);
      const wanted = !node.negate;
      return (scope) => test(operand(scope), null) === wanted;
    }
    case "UnaryExpression": {
      const argument = compileExpression(node.argument);
      const operator = node.operator.value;
      if (operator === "not") return (scope) => !truthy(argument(scope));
      return (scope) => sign(operator, argument(scope));
    }
    case "BinaryExpression":
      return compileBinary(node.operator.value, node.left, node.right);
    case "Ternary": {
      const [condition, yes, no] = [node.condition, node.trueExpr, node.falseExpr].map(compileExpression);
      if (condition === undefined || yes === undefined || no === undefined) throw new TemplateUnsupported("an incomplete conditional");
      return (scope) => (truthy(condition(scope)) ? yes(scope) : no(scope));
    }
    case "SelectExpression": {
      const value = compileExpression(node.lhs);
      const test = compileExpression(node.test);
      return (scope) =>
        truthy(test(scope)) ? value(scope) : new Undefined("the inline if-expression evaluated to false and no else section was defined");
    }
    default:
      throw new TemplateUnsupported(node.type);
  }
}

function constantly(value: Value): Evaluate {
  return () => value;
}

function compileDict(entries: ReadonlyMap<Expression, Expression>): Evaluate {
  const parts = [...entries].map(([key, value]) => [compileExpression(key), compileExpression(value)] as const);
  return (scope) => {
    const dict: Dict = new Map();
    for (const [key, value] of parts) {
      const name = key(scope);
      if (!isDictKey(name)) throw new TemplateRaised(`unhashable type: '${typeName(name)}'`);
      dict.set(name, value(scope));
    }
    return dict;
  };
}

function compileMember(node: Member): Evaluate {
  const object = compileExpression(node.object);
  if (!node.computed) {
    if (node.property.type === "Identifier") {
      const name = node.property.value;
      return (scope) => attribute(object(scope), name);
    }
    const key = compileExpression(node.property);
    return (scope) => item(object(scope), key(scope));
  }
  if (node.property.type === "SliceExpression") {
    const { start, stop, step } = node.property;
    const [from, to, by] = [start, stop, step].map((part) => (part === undefined ? constantly(null) : compileExpression(part)));
    return (scope) => slice(object(scope), from?.(scope) ?? null, to?.(scope) ?? null, by?.(scope) ?? null);
  }
  const key = compileExpression(node.property);
  return (scope) => item(object(scope), key(scope));
}

/** Arguments of a call or filter. */
export function compileArguments(nodes: readonly Expression[]): (scope: Scope) => CallArguments {
  if (nodes.length === 0) return () => NO_ARGUMENTS;
  const positional: Evaluate[] = [];
  const named: [string, Evaluate][] = [];
  let spread: Evaluate | null = null;
  let spreadAt = 0;
  for (const node of nodes) {
    if (node.type === "KeywordArgumentExpression") named.push([node.key.value, compileExpression(node.value)]);
    else if (node.type === "KeywordSpreadExpression") throw new TemplateUnsupported("** in a call");
    else if (node.type === "SpreadExpression") {
      spread = compileExpression(node.argument);
      spreadAt = positional.length;
    } else positional.push(compileExpression(node));
  }
  return (scope) => {
    const values = positional.map((evaluate) => evaluate(scope));
    if (spread !== null) values.splice(spreadAt, 0, ...iterate(spread(scope)));
    return { positional: values, named: new Map(named.map(([name, evaluate]) => [name, evaluate(scope)])) };
  };
}

function compileCall(node: Call): Evaluate {
  if (
    node.callee.type === "MemberExpression" &&
    node.callee.property.type === "Identifier" &&
    !isSupportedMethod(node.callee.property.value)
  ) {
    throw new TemplateUnsupported(`method ${node.callee.property.value}`);
  }
  const callee = compileExpression(node.callee);
  const args = compileArguments(node.args);
  return (scope) => call(callee(scope), args(scope));
}

/** Calls a value as Python would. */
export function call(target: Value, args: CallArguments): Value {
  if (target instanceof Callable) return target.call(args);
  if (target instanceof Undefined) raiseUndefined(target);
  throw new TemplateRaised(`'${typeName(target)}' object is not callable`);
}

/** A filter and its arguments, to be applied to a value. */
export function compileFilterUse(filter: Identifier | Call): (scope: Scope, value: Value) => Value {
  const nameNode = filter.type === "CallExpression" ? filter.callee : filter;
  if (nameNode.type !== "Identifier") throw new TemplateUnsupported("a computed filter");
  const name = nameNode.value;
  const apply = templateFilters.get(name);
  if (apply === undefined) throw new TemplateUnsupported(`filter ${name}`);
  const args = compileArguments(filter.type === "CallExpression" ? filter.args : []);
  return (scope, value) => apply(value, args(scope), name);
}

function compileFilter(node: FilterUse): Evaluate {
  if (node.filter.type === "Identifier" && node.filter.value === GROUP_FILTER) return compileExpression(node.operand);
  const operand = compileExpression(node.operand);
  const apply = compileFilterUse(node.filter);
  return (scope) => apply(scope, operand(scope));
}

function compileBinary(operator: string, leftNode: Expression, rightNode: Expression): Evaluate {
  if (COMPARISONS.has(operator) && leftNode.type === "BinaryExpression" && COMPARISONS.has(leftNode.operator.value)) {
    // The tree of `a < b < c` is that of `(a < b) < c`; Python means something else by the first.
    throw new TemplateUnsupported("chained comparisons");
  }
  const left = compileExpression(leftNode);
  const right = compileExpression(rightNode);
  switch (operator) {
    case "and":
      return (scope) => {
        const value = left(scope);
        return truthy(value) ? right(scope) : value;
      };
    case "or":
      return (scope) => {
        const value = left(scope);
        return truthy(value) ? value : right(scope);
      };
    case "==":
      return (scope) => equals(left(scope), right(scope));
    case "!=":
      return (scope) => !equals(left(scope), right(scope));
    case "in":
      return (scope) => {
        const value = left(scope);
        return contains(right(scope), value);
      };
    case "not in":
      return (scope) => {
        const value = left(scope);
        return !contains(right(scope), value);
      };
    case "<":
      return (scope) => compare(left(scope), right(scope), operator) < 0;
    case ">":
      return (scope) => compare(left(scope), right(scope), operator) > 0;
    case "<=":
      return (scope) => compare(left(scope), right(scope), operator) <= 0;
    case ">=":
      return (scope) => compare(left(scope), right(scope), operator) >= 0;
    case "~":
      return (scope) => str(left(scope)) + str(right(scope));
    case "+":
    case "-":
    case "*":
    case "/":
    case "//":
    case "%":
    case "**":
      return (scope) => arithmetic(operator, left(scope), right(scope));
    default:
      throw new TemplateUnsupported(`operator ${operator}`);
  }
}
