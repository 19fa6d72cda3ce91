import { descendants, type Expression, type For, type Macro, type Node, type Program } from "./ast.ts";

/** `openai`: the template loops over the parts of a message's content; `string`: it wants one text. */
export type ContentFormat = "string" | "openai";

/**
 * vLLM's detection of the content format from the template's tree (0.32, renderers/hf.py): follows `messages` through assignments,
 * namespaces and macro parameters to a loop over messages, and from its item to a loop over `content`.
 */
export function detectContentFormat(program: Program): ContentFormat {
  const nodes = [...descendants(program)];
  const loops = nodes.filter((node): node is For => node.type === "For");
  const macros = new Map(nodes.filter((node): node is Macro => node.type === "Macro").map((node) => [node.name.value, node]));

  const messageLists = aliases(nodes, macros, (node, names) => refersTo(node, names));
  const seeds = new Set<string>();
  for (const loop of loops) {
    const source = loop.iterable.type === "SelectExpression" ? loop.iterable.lhs : loop.iterable;
    if (loop.loopvar.type === "Identifier" && refersTo(source, messageLists)) seeds.add(loop.loopvar.value);
  }
  const messages = aliases(nodes, macros, (node, names) => refersTo(node, names), seeds);
  // Content itself is followed into macros only: a variable that merely holds it now and then does not make a loop over parts.
  const contents = macroAliases(nodes, macros, (node, names) => refersTo(node, names) || readsContent(node, messages), new Set());
  const inMacros = new Set<Node>();
  for (const macro of macros.values()) for (const node of descendants(macro)) inMacros.add(node);

  for (const loop of loops) {
    const source = unwrap(loop.iterable.type === "SelectExpression" ? loop.iterable.lhs : loop.iterable);
    if (readsContent(source, messages) || refersTo(source, contents)) return "openai";
    if (source.type === "Identifier" && source.value === "content" && !inMacros.has(loop)) return "openai";
  }
  return "string";
}

/** Filters, tests and slices around an expression do not change what it is about. */
function unwrap(node: Expression): Expression {
  if (node.type === "FilterExpression" || node.type === "TestExpression") return unwrap(node.operand);
  if (node.type === "MemberExpression" && node.property.type === "SliceExpression") return unwrap(node.object);
  return node;
}

/** Name of a variable, or `ns.attribute`. */
function nameOf(node: Expression): string | null {
  if (node.type === "Identifier") return node.value;
  if (node.type === "MemberExpression" && !node.computed && node.object.type === "Identifier" && node.property.type === "Identifier") {
    return `${node.object.value}.${node.property.value}`;
  }
  return null;
}

function refersTo(node: Expression, names: ReadonlySet<string>): boolean {
  const name = nameOf(unwrap(node));
  return name !== null && names.has(name);
}

function readsContent(node: Expression, messages: ReadonlySet<string>): boolean {
  const inner = unwrap(node);
  if (inner.type !== "MemberExpression" || !refersTo(inner.object, messages)) return false;
  const { property } = inner;
  return inner.computed
    ? property.type === "StringLiteral" && property.value === "content"
    : property.type === "Identifier" && property.value === "content";
}

type Matches = (node: Expression, names: ReadonlySet<string>) => boolean;

/** Names that hold the same thing as `seeds` (`messages` when absent), through assignments and macro parameters. */
function aliases(
  nodes: readonly Node[],
  macros: ReadonlyMap<string, Macro>,
  matches: Matches,
  seeds: ReadonlySet<string> = new Set(["messages"]),
): Set<string> {
  let names = new Set(seeds);
  for (let before = -1; before !== names.size; ) {
    before = names.size;
    for (const node of nodes) {
      if (node.type !== "Set" || node.value === null || !matches(node.value, names)) continue;
      const name = nameOf(node.assignee);
      if (name !== null) names.add(name);
    }
    names = macroAliases(nodes, macros, matches, names);
  }
  return names;
}

/** `seeds` and the macro parameters they are passed to. */
function macroAliases(
  nodes: readonly Node[],
  macros: ReadonlyMap<string, Macro>,
  matches: Matches,
  seeds: ReadonlySet<string>,
): Set<string> {
  const names = new Set(seeds);
  for (let before = -1; before !== names.size; ) {
    before = names.size;
    for (const node of nodes) {
      if (node.type !== "CallExpression" || node.callee.type !== "Identifier") continue;
      const parameters = macros.get(node.callee.value)?.args ?? [];
      node.args.forEach((argument, i) => {
        const parameter = parameters[i];
        if (parameter === undefined || argument.type === "KeywordArgumentExpression" || !matches(argument, names)) return;
        names.add(parameter.type === "Identifier" ? parameter.value : parameter.key.value);
      });
    }
  }
  return names;
}
