import { parse, tokenize } from "@huggingface/jinja";
import { GROUP_FILTER, type Program } from "./ast.ts";
import { compileStatements, type Execute, Output } from "./compile-statement.ts";
import { templateGlobals } from "./globals.ts";
import { Scope } from "./scope.ts";
import { TemplateRaised, TemplateUnsupported, type Value } from "./values.ts";

/** A chat template, parsed and checked once. */
export interface Template {
  readonly source: string;
  readonly program: Program;
  /**
   * @throws TemplateRaised when the template (or Python underneath) would raise.
   * @throws TemplateUnsupported when it comes to something that is not reproduced here.
   */
  render(variables: ReadonlyMap<string, Value>): string;
}

type Token = ReturnType<typeof tokenize>[number];

/** Tags @huggingface/jinja drops or misreads instead of refusing. */
const SILENT_TAGS = /\{%[-+]?\s*(?:raw|with|include|import|from|extends|block|autoescape|do|trans|debug)\b|\{%\+|\{\{\+|\{#\+|\+%\}/;

/**
 * Parses with @huggingface/jinja (its tree only; its interpreter differs from Jinja2 silently) and compiles to functions with Python's semantics.
 * Environment as transformers 5.19 utils/chat_template_utils.py makes it: trim_blocks, lstrip_blocks, loop controls, `generation` blocks.
 *
 * @throws TemplateUnsupported
 */
export function parseTemplate(source: string, now: () => Date): Template {
  // Jinja2 reads CRLF and CR as LF.
  const text = source.replace(/\r\n?/g, "\n");
  const silent = SILENT_TAGS.exec(text);
  if (silent !== null) throw new TemplateUnsupported(`template tag ${silent[0]}`);
  let program: Program;
  let execute: Execute;
  try {
    program = parse(keepParentheses(tokenize(text, { lstrip_blocks: true, trim_blocks: true }))) as unknown as Program;
    execute = compileStatements(program.body);
  } catch (error) {
    if (error instanceof TemplateUnsupported) throw error;
    throw new TemplateUnsupported(`template syntax: ${error instanceof Error ? error.message : String(error)}`);
  }
  return {
    source,
    program,
    render: (variables) => {
      const context = new Scope(new Scope(null, templateGlobals(now)), new Map(variables));
      const output = new Output();
      try {
        execute(new Scope(context), output);
      } catch (error) {
        if (error instanceof RangeError) throw new TemplateRaised(`maximum recursion depth exceeded: ${error.message}`);
        throw error;
      }
      return output.text;
    },
  };
}

/**
 * The tree has no parentheses, so `(a == b) != c` and the chained `a == b != c` would be the same. An identity filter after a closing
 * parenthesis that stands before a comparison tells them apart; the compiler refuses chains and drops the filter.
 */
function keepParentheses(tokens: readonly Token[]): Token[] {
  const result: Token[] = [];
  let inLoopTarget = false;
  for (const [i, token] of tokens.entries()) {
    if (token.type === "OpenStatement") inLoopTarget = tokens[i + 1]?.value === "for" && tokens[i + 1]?.type === "Identifier";
    result.push(token);
    if (inLoopTarget) {
      if (token.type === "Identifier" && token.value === "in") inLoopTarget = false;
    } else if (token.type === "CloseParen" && isComparison(tokens, i + 1)) {
      result.push({ type: "Pipe", value: "|" }, { type: "Identifier", value: GROUP_FILTER });
    }
  }
  return result;
}

function isComparison(tokens: readonly Token[], at: number): boolean {
  const token = tokens[at];
  if (token?.type === "ComparisonBinaryOperator") return true;
  if (token?.type !== "Identifier") return false;
  return token.value === "in" || (token.value === "not" && tokens[at + 1]?.type === "Identifier" && tokens[at + 1]?.value === "in");
}
