import { isKvatlasError, KvatlasError } from "@kvatlas/shared/errors";
import { didYouMean } from "@kvatlas/shared/nearest";
import { parseCommandArgs, usageError } from "./args.ts";
import type { Command, CommandContext } from "./command.ts";
import { commandHelp, generalHelp } from "./help.ts";

/** The process as a command sees it, before its arguments are parsed. */
export type ProcessContext = Omit<CommandContext, "args">;

/** A command and the way to load it: its file, and the services behind it, are imported when it runs. */
export interface CommandEntry {
  readonly name: string;
  readonly summary: string;
  load(): Promise<Command>;
}

/** Exit codes. Usage covers configuration as well: what the caller has to change before trying again. */
export const exitCodes = { ok: 0, failure: 1, usage: 2 } as const;

/** Runs `kvatlas <argv>`; prints errors and returns the exit code. Never throws. */
export async function dispatch(entries: readonly CommandEntry[], argv: readonly string[], context: ProcessContext): Promise<number> {
  const [name, ...rest] = argv;
  try {
    if (name === undefined || name === "help" || name === "--help" || name === "-h") {
      const topic = name === "help" ? rest[0] : undefined;
      if (topic !== undefined) {
        context.stdout.write(commandHelp(await find(entries, topic).load()));
        return exitCodes.ok;
      }
      (name === undefined ? context.stderr : context.stdout).write(generalHelp(entries));
      return name === undefined ? exitCodes.usage : exitCodes.ok;
    }
    const command = await find(entries, name).load();
    return await runCommand(command, rest, context);
  } catch (error) {
    return report(error, context.stderr, "kvatlas --help");
  }
}

/** Parses `argv` (after the command's name) and runs the command; prints help and errors. Never throws. */
export async function runCommand(command: Command, argv: readonly string[], context: ProcessContext): Promise<number> {
  try {
    const args = parseCommandArgs(command, argv);
    if (args.help) {
      context.stdout.write(commandHelp(command));
      return exitCodes.ok;
    }
    return await command.run({ ...context, args });
  } catch (error) {
    return report(error, context.stderr, `kvatlas ${command.name} --help`);
  }
}

function find(entries: readonly CommandEntry[], name: string): CommandEntry {
  const entry = entries.find((candidate) => candidate.name === name);
  if (entry !== undefined) return entry;
  const names = entries.map((candidate) => candidate.name);
  const kind = name.startsWith("-") ? "option" : "command";
  throw usageError(`unknown ${kind} "${name}".${didYouMean(name, names)} Commands: ${names.join(", ")}.`);
}

/** Prints an error the way its reader needs it: a sentence for errors raised on purpose, a stack for those nobody expected. */
function report(error: unknown, stderr: NodeJS.WritableStream, helpCommand: string): number {
  if (!(error instanceof KvatlasError)) {
    stderr.write(
      `kvatlas: unexpected error, please report it: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}\n`,
    );
    return exitCodes.failure;
  }
  stderr.write(`kvatlas: ${error.message}\n`);
  if (isKvatlasError(error, "KVATLAS_CLI_USAGE")) stderr.write(`See: ${helpCommand}\n`);
  return isKvatlasError(error, "KVATLAS_CLI_USAGE") || isKvatlasError(error, "KVATLAS_CONFIG_INVALID")
    ? exitCodes.usage
    : exitCodes.failure;
}
