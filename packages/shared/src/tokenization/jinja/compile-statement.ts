import {
  type CallStatement,
  descendants,
  type Expression,
  type For,
  type Macro,
  type Parameter,
  type SetStatement,
  type Statement,
} from "./ast.ts";
import { call, compileArguments, compileExpression, compileFilterUse, type Evaluate } from "./compile-expression.ts";
import { str } from "./printing.ts";
import { Scope } from "./scope.ts";
import {
  type CallArguments,
  Callable,
  iterate,
  LoopState,
  Namespace,
  TemplateRaised,
  TemplateUnsupported,
  Tuple,
  truthy,
  Undefined,
  type Value,
} from "./values.ts";

/** Longest text a template may produce, in UTF-16 code units. */
const MAX_OUTPUT_LENGTH = 64 * 1024 * 1024;

/** Text written so far; bounded. */
export class Output {
  text = "";

  write(text: string): void {
    this.text += text;
    if (this.text.length > MAX_OUTPUT_LENGTH) throw new TemplateUnsupported(`a prompt of more than ${MAX_OUTPUT_LENGTH} characters`);
  }
}

/** How a statement ended: by itself, or by `break` or `continue` of the loop around it. */
type Ending = "done" | "break" | "continue";
export type Execute = (scope: Scope, output: Output) => Ending;

/** Turns statements into one function. @throws TemplateUnsupported */
export function compileStatements(nodes: readonly Statement[], loopDepth = 0): Execute {
  const steps = nodes.filter((node) => node.type !== "Comment").map((node) => compileStatement(node, loopDepth));
  return (scope, output) => {
    for (const step of steps) {
      const ending = step(scope, output);
      if (ending !== "done") return ending;
    }
    return "done";
  };
}

function compileStatement(node: Statement, loopDepth: number): Execute {
  switch (node.type) {
    case "If": {
      const test = compileExpression(node.test);
      const body = compileStatements(node.body, loopDepth);
      const alternate = compileStatements(node.alternate, loopDepth);
      return (scope, output) => (truthy(test(scope)) ? body(scope, output) : alternate(scope, output));
    }
    case "For":
      return compileFor(node, loopDepth);
    case "Set":
      return compileSet(node, loopDepth);
    case "Macro":
      return compileMacro(node);
    case "CallStatement":
      return compileCallStatement(node);
    case "FilterStatement": {
      const apply = compileFilterUse(node.filter);
      const body = compileStatements(node.body);
      return (scope, output) => {
        const inner = new Output();
        const local = new Scope(scope);
        body(local, inner);
        output.write(str(apply(local, inner.text)));
        return "done";
      };
    }
    case "Break":
      return () => "break";
    case "Continue":
      return () => "continue";
    case "Comment":
      return () => "done";
    case "StringLiteral": {
      const text = node.value;
      return (_scope, output) => {
        output.write(text);
        return "done";
      };
    }
    default: {
      const evaluate = compileExpression(node);
      return (scope, output) => {
        output.write(str(evaluate(scope)));
        return "done";
      };
    }
  }
}

type Assign = (scope: Scope, value: Value) => void;

function compileTarget(node: Expression): Assign {
  if (node.type === "Identifier") {
    const name = node.value;
    return (scope, value) => scope.set(name, value);
  }
  if (node.type === "TupleLiteral") {
    const targets = node.value.map(compileTarget);
    return (scope, value) => {
      const items = iterate(value);
      if (items.length !== targets.length) throw new TemplateRaised(`expected ${targets.length} values to unpack, got ${items.length}`);
      targets.forEach((assign, i) => {
        assign(scope, items[i] ?? null);
      });
    };
  }
  if (node.type === "MemberExpression" && node.property.type === "Identifier" && !node.computed) {
    const object = compileExpression(node.object);
    const name = node.property.value;
    return (scope, value) => {
      const target = object(scope);
      if (!(target instanceof Namespace)) throw new TemplateRaised("cannot assign attribute on non-namespace object");
      target.attributes.set(name, value);
    };
  }
  throw new TemplateUnsupported("this assignment target");
}

function compileSet(node: SetStatement, loopDepth: number): Execute {
  if (node.value !== null) {
    const value = compileExpression(node.value);
    const assign = compileTarget(node.assignee);
    return (scope) => {
      assign(scope, value(scope));
      return "done";
    };
  }
  const assign = compileTarget(node.assignee);
  const body = compileStatements(node.body, loopDepth);
  return (scope) => {
    const inner = new Output();
    body(new Scope(scope), inner);
    assign(scope, inner.text);
    return "done";
  };
}

function compileFor(node: For, outerDepth: number): Execute {
  const depth = outerDepth + 1;
  const source = node.iterable.type === "SelectExpression" ? node.iterable.lhs : node.iterable;
  const items = compileExpression(source);
  const test = node.iterable.type === "SelectExpression" ? compileExpression(node.iterable.test) : null;
  const assign = compileTarget(node.loopvar);
  const body = compileStatements(node.body, depth);
  const otherwise = compileStatements(node.defaultBlock, outerDepth);
  return (scope, output) => {
    let values = iterate(items(scope));
    if (test !== null) {
      values = values.filter((value) => {
        const local = new Scope(scope);
        assign(local, value);
        return truthy(test(local));
      });
    }
    if (values.length === 0) return otherwise(new Scope(scope), output);
    const loop = new LoopState(values, depth);
    for (const [index, value] of values.entries()) {
      loop.index0 = index;
      const local = new Scope(scope);
      local.set("loop", loop);
      assign(local, value);
      if (body(local, output) === "break") break;
    }
    return "done";
  };
}

interface Signature {
  readonly names: readonly string[];
  readonly defaults: ReadonlyMap<string, Evaluate>;
}

function signature(parameters: readonly Parameter[]): Signature {
  const names = parameters.map((parameter) => (parameter.type === "Identifier" ? parameter.value : parameter.key.value));
  const defaults = new Map<string, Evaluate>();
  for (const parameter of parameters) {
    if (parameter.type === "KeywordArgumentExpression") defaults.set(parameter.key.value, compileExpression(parameter.value));
  }
  return { names, defaults };
}

/** A function that renders `body` in a scope of its own inside `scope`. */
function macro(name: string, scope: Scope, { names, defaults }: Signature, body: Execute, uses: ReadonlySet<string>): Callable {
  return new Callable(name, (args: CallArguments) => {
    const local = new Scope(scope);
    const named = new Map(args.named);
    if (uses.has("caller")) local.set("caller", named.get("caller") ?? new Undefined("No caller defined"));
    else if (named.has("caller")) throw new TemplateRaised(`macro '${name}' was invoked with a caller it does not use`);
    named.delete("caller");
    const extra = args.positional.slice(names.length);
    if (uses.has("varargs")) local.set("varargs", new Tuple(extra));
    else if (extra.length > 0) throw new TemplateRaised(`macro '${name}' takes not more than ${names.length} argument(s)`);
    names.forEach((parameter, i) => {
      const given = args.positional[i];
      const byName = named.get(parameter);
      if (given !== undefined && byName !== undefined)
        throw new TemplateRaised(`macro '${name}' got multiple values for argument '${parameter}'`);
      named.delete(parameter);
      const value = given === undefined ? byName : given;
      const filled = value === undefined ? defaults.get(parameter)?.(local) : value;
      local.set(parameter, filled === undefined ? new Undefined(`parameter '${parameter}' was not provided`) : filled);
    });
    if (uses.has("kwargs")) local.set("kwargs", new Map(named));
    else if (named.size > 0) throw new TemplateRaised(`macro '${name}' takes no keyword argument '${[...named.keys()][0]}'`);
    const output = new Output();
    body(local, output);
    return output.text;
  });
}

function usedNames(body: readonly Statement[]): Set<string> {
  const names = new Set<string>();
  for (const statement of body) for (const node of descendants(statement)) if (node.type === "Identifier") names.add(node.value);
  return names;
}

function compileMacro(node: Macro): Execute {
  const name = node.name.value;
  const parameters = signature(node.args);
  const body = compileStatements(node.body);
  const uses = usedNames(node.body);
  return (scope) => {
    scope.set(name, macro(name, scope, parameters, body, uses));
    return "done";
  };
}

function compileCallStatement(node: CallStatement): Execute {
  const callee = compileExpression(node.call.callee);
  const args = compileArguments(node.call.args);
  const parameters = signature(node.callerArgs ?? []);
  const body = compileStatements(node.body);
  const uses = usedNames(node.body);
  uses.delete("caller");
  return (scope, output) => {
    const given = args(scope);
    const caller = macro("caller", scope, parameters, body, uses);
    output.write(str(call(callee(scope), { positional: given.positional, named: new Map([...given.named, ["caller", caller]]) })));
    return "done";
  };
}
