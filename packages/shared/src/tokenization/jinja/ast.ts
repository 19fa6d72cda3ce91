/** Shapes of the tree @huggingface/jinja 0.5.11 parses to (its src/ast.ts); the package does not export them. */

/** Name of the identity filter that stands for parentheses around an operand of a comparison; no template can spell it. */
export const GROUP_FILTER = "(group)";

interface Operator {
  readonly value: string;
}

export interface Identifier {
  readonly type: "Identifier";
  readonly value: string;
}

export interface KeywordArgument {
  readonly type: "KeywordArgumentExpression";
  readonly key: Identifier;
  readonly value: Expression;
}

export interface Call {
  readonly type: "CallExpression";
  readonly callee: Expression;
  readonly args: readonly Expression[];
}

export interface Slice {
  readonly type: "SliceExpression";
  readonly start: Expression | undefined;
  readonly stop: Expression | undefined;
  readonly step: Expression | undefined;
}

export interface Member {
  readonly type: "MemberExpression";
  readonly object: Expression;
  readonly property: Expression;
  readonly computed: boolean;
}

export interface Select {
  readonly type: "SelectExpression";
  readonly lhs: Expression;
  readonly test: Expression;
}

export interface FilterUse {
  readonly type: "FilterExpression";
  readonly operand: Expression;
  readonly filter: Identifier | Call;
}

export type Expression =
  | Identifier
  | KeywordArgument
  | Call
  | Slice
  | Member
  | Select
  | FilterUse
  | { readonly type: "IntegerLiteral" | "FloatLiteral"; readonly value: number }
  | { readonly type: "StringLiteral"; readonly value: string }
  | { readonly type: "ArrayLiteral" | "TupleLiteral"; readonly value: readonly Expression[] }
  | { readonly type: "ObjectLiteral"; readonly value: ReadonlyMap<Expression, Expression> }
  | { readonly type: "BinaryExpression"; readonly operator: Operator; readonly left: Expression; readonly right: Expression }
  | { readonly type: "TestExpression"; readonly operand: Expression; readonly negate: boolean; readonly test: Identifier }
  | { readonly type: "UnaryExpression"; readonly operator: Operator; readonly argument: Expression }
  | { readonly type: "SpreadExpression" | "KeywordSpreadExpression"; readonly argument: Expression }
  | { readonly type: "Ternary"; readonly condition: Expression; readonly trueExpr: Expression; readonly falseExpr: Expression };

export type Parameter = Identifier | KeywordArgument;

export interface For {
  readonly type: "For";
  readonly loopvar: Expression;
  readonly iterable: Expression;
  readonly body: readonly Statement[];
  readonly defaultBlock: readonly Statement[];
}

export interface SetStatement {
  readonly type: "Set";
  readonly assignee: Expression;
  readonly value: Expression | null;
  readonly body: readonly Statement[];
}

export interface Macro {
  readonly type: "Macro";
  readonly name: Identifier;
  readonly args: readonly Parameter[];
  readonly body: readonly Statement[];
}

export interface CallStatement {
  readonly type: "CallStatement";
  readonly call: Call;
  readonly callerArgs: readonly Parameter[] | null;
  readonly body: readonly Statement[];
}

/** An expression in statement position prints its value; a StringLiteral there is template text. */
export type Statement =
  | Expression
  | For
  | SetStatement
  | Macro
  | CallStatement
  | { readonly type: "If"; readonly test: Expression; readonly body: readonly Statement[]; readonly alternate: readonly Statement[] }
  | { readonly type: "FilterStatement"; readonly filter: Identifier | Call; readonly body: readonly Statement[] }
  | { readonly type: "Comment" | "Break" | "Continue" };

export interface Program {
  readonly type: "Program";
  readonly body: readonly Statement[];
}

/** Any node of the tree. */
export type Node = Statement | Program;

/** Nodes directly inside one. */
export function children(node: Node): readonly Node[] {
  switch (node.type) {
    case "Program":
      return node.body;
    case "If":
      return [node.test, ...node.body, ...node.alternate];
    case "For":
      return [node.loopvar, node.iterable, ...node.body, ...node.defaultBlock];
    case "Set":
      return node.value === null ? [node.assignee, ...node.body] : [node.assignee, node.value, ...node.body];
    case "Macro":
      return [...node.args, ...node.body];
    case "CallStatement":
      return [node.call, ...(node.callerArgs ?? []), ...node.body];
    case "FilterStatement":
      return [node.filter, ...node.body];
    case "KeywordArgumentExpression":
      return [node.value];
    case "CallExpression":
      return [node.callee, ...node.args];
    case "SliceExpression":
      return [node.start, node.stop, node.step].filter((part) => part !== undefined);
    case "MemberExpression":
      return [node.object, node.property];
    case "SelectExpression":
      return [node.lhs, node.test];
    case "FilterExpression":
      return [node.operand, node.filter];
    case "ArrayLiteral":
    case "TupleLiteral":
      return node.value;
    case "ObjectLiteral":
      return [...node.value].flat();
    case "BinaryExpression":
      return [node.left, node.right];
    case "TestExpression":
      return [node.operand];
    case "UnaryExpression":
    case "SpreadExpression":
    case "KeywordSpreadExpression":
      return [node.argument];
    case "Ternary":
      return [node.condition, node.trueExpr, node.falseExpr];
    default:
      return [];
  }
}

/** The node and everything below it. */
export function* descendants(node: Node): Generator<Node> {
  yield node;
  for (const child of children(node)) yield* descendants(child);
}
