import type { ParsedArgs } from "./args.ts";

/** One option of a command. Numbers are strings here and read through `args.integer()` or `args.number()`. */
export interface OptionSpec {
  readonly type: "string" | "boolean";
  /** One letter. */
  readonly short?: string;
  /** May be given several times; read with `args.strings()`. */
  readonly multiple?: boolean;
  /** What stands for the value in help, e.g. `DIR`. Strings only. @defaultValue `VALUE` */
  readonly value?: string;
  /** One sentence; says the unit and the default. */
  readonly description: string;
}

/** What a command may use of the process; `main.ts` alone touches `process`. */
export interface CommandContext {
  readonly args: ParsedArgs;
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly stdin: NodeJS.ReadableStream;
  /** Results only; with `--json` nothing but JSON. */
  readonly stdout: NodeJS.WritableStream;
  /** Everything meant for people beside the result. */
  readonly stderr: NodeJS.WritableStream;
  /** Aborts on SIGINT or SIGTERM: finish within the deadline and return. */
  readonly signal: AbortSignal;
}

export interface Command {
  readonly name: string;
  /** One line, for the list of commands. */
  readonly summary: string;
  /** After `kvatlas`, e.g. `tokenize --tokenizer DIR [--json] < bodies.jsonl`. */
  readonly usage: string;
  /** Paragraphs under the summary of `--help`. */
  readonly description?: string;
  /** Full command lines that work as they stand. */
  readonly examples: readonly string[];
  /** By long name, without dashes. `--help` is there by itself. */
  readonly options: Readonly<Record<string, OptionSpec>>;
  /** Arguments without dashes, for messages; absent: none are allowed. */
  readonly positionals?: { readonly name: string; readonly min: number; readonly max: number };
  /**
   * Returns the exit code: 0 done, 1 the answer is "no" or something failed, 2 wrong usage or configuration.
   * A thrown KvatlasError is printed by the caller as `kvatlas: <message>`; usage and configuration errors exit 2, others 1.
   */
  run(context: CommandContext): Promise<number>;
}
