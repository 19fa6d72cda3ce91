import { parseArgs } from "node:util";
import { KvatlasError } from "@kvatlas/shared/errors";
import { didYouMean } from "@kvatlas/shared/nearest";
import type { Command, OptionSpec } from "./command.ts";

/** Arguments of one command after validation against its options table. */
export interface ParsedArgs {
  readonly positionals: readonly string[];
  /** Whether `--help` was given. */
  readonly help: boolean;
  flag(name: string): boolean;
  string(name: string): string | undefined;
  /** @throws KVATLAS_CLI_USAGE when absent. */
  required(name: string): string;
  /** Every value of a `multiple` option, in order. */
  strings(name: string): readonly string[];
  /** A whole number within the bounds. @throws KVATLAS_CLI_USAGE */
  integer(name: string, bounds?: Bounds): number | undefined;
  /** A finite number within the bounds. @throws KVATLAS_CLI_USAGE */
  number(name: string, bounds?: Bounds): number | undefined;
}

export interface Bounds {
  readonly min?: number;
  readonly max?: number;
}

/** Wrong usage: printed with a hint at `--help`, exit code 2. */
export function usageError(message: string): KvatlasError {
  return new KvatlasError("KVATLAS_CLI_USAGE", message);
}

const helpOption: OptionSpec = { type: "boolean", short: "h", description: "Prints this help." };

/** The command's options and the one every command has. */
export function allOptions(command: Pick<Command, "options">): Readonly<Record<string, OptionSpec>> {
  return { ...command.options, help: helpOption };
}

/**
 * Reads `argv` (after the command's name) against the options table.
 *
 * @throws KVATLAS_CLI_USAGE unknown option (with the nearest one), missing or superfluous value, wrong number of arguments.
 */
export function parseCommandArgs(command: Pick<Command, "name" | "options" | "positionals">, argv: readonly string[]): ParsedArgs {
  const options = allOptions(command);
  // strict: false, because the errors of strict mode know neither near misses nor which command it was.
  const { tokens } = parseArgs({
    args: [...argv],
    options: Object.fromEntries(
      Object.entries(options).map(([name, spec]) => [
        name,
        { type: spec.type, multiple: spec.multiple === true, ...(spec.short === undefined ? {} : { short: spec.short }) },
      ]),
    ),
    strict: false,
    allowPositionals: true,
    tokens: true,
  });
  const values = new Map<string, string[]>();
  const flags = new Set<string>();
  const positionals: string[] = [];
  for (const token of tokens) {
    if (token.kind === "positional") positionals.push(token.value);
    if (token.kind !== "option") continue;
    const spec = Object.hasOwn(options, token.name) ? options[token.name] : undefined;
    if (spec === undefined) {
      const near = token.rawName.startsWith("--")
        ? didYouMean(
            token.rawName,
            Object.keys(options).map((name) => `--${name}`),
          )
        : "";
      throw usageError(`unknown option "${token.rawName}" of "kvatlas ${command.name}".${near}`);
    }
    if (spec.type === "boolean") {
      if (token.value !== undefined) throw usageError(`option ${token.rawName} takes no value, got "${token.value}".`);
      flags.add(token.name);
      continue;
    }
    if (token.value === undefined || (!token.inlineValue && token.value.startsWith("-") && token.value.length > 1)) {
      const hint = token.value === undefined ? "" : ` Write ${token.rawName}=${token.value} if "${token.value}" is meant as the value.`;
      throw usageError(`option ${token.rawName} needs a value (${spec.value ?? "VALUE"}).${hint}`);
    }
    const earlier = values.get(token.name);
    if (earlier !== undefined && spec.multiple !== true) throw usageError(`option ${token.rawName} is given twice; it takes one value.`);
    if (earlier === undefined) values.set(token.name, [token.value]);
    else earlier.push(token.value);
  }
  const help = flags.has("help");
  if (!help) checkPositionals(command, positionals);
  return createParsedArgs(positionals, help, flags, values);
}

function checkPositionals(command: Pick<Command, "name" | "positionals">, positionals: readonly string[]): void {
  const allowed = command.positionals ?? { name: "argument", min: 0, max: 0 };
  if (positionals.length < allowed.min) {
    throw usageError(`"kvatlas ${command.name}" needs ${allowed.min === 1 ? "a" : `at least ${allowed.min}`} ${allowed.name}.`);
  }
  if (positionals.length > allowed.max) {
    throw usageError(`unexpected argument "${positionals[allowed.max] ?? ""}" of "kvatlas ${command.name}".`);
  }
}

function createParsedArgs(
  positionals: readonly string[],
  help: boolean,
  flags: ReadonlySet<string>,
  values: ReadonlyMap<string, readonly string[]>,
): ParsedArgs {
  const string = (name: string): string | undefined => values.get(name)?.[0];
  const number = (name: string, { min = Number.NEGATIVE_INFINITY, max = Number.POSITIVE_INFINITY }: Bounds, whole: boolean) => {
    const text = string(name);
    if (text === undefined) return undefined;
    const value = text.trim() === "" ? Number.NaN : Number(text);
    const isRight = whole ? Number.isSafeInteger(value) : Number.isFinite(value);
    if (!isRight || value < min || value > max) {
      throw usageError(`option --${name}: got "${text}", expected a ${whole ? "whole number" : "number"}${boundsText(min, max)}.`);
    }
    return value;
  };
  return {
    positionals,
    help,
    flag: (name) => flags.has(name),
    string,
    required: (name) => {
      const value = string(name);
      if (value === undefined) throw usageError(`option --${name} is required.`);
      return value;
    },
    strings: (name) => values.get(name) ?? [],
    integer: (name, bounds = {}) => number(name, bounds, true),
    number: (name, bounds = {}) => number(name, bounds, false),
  };
}

function boundsText(min: number, max: number): string {
  if (Number.isFinite(min) && Number.isFinite(max)) return ` from ${min} to ${max}`;
  if (Number.isFinite(min)) return `, at least ${min}`;
  return Number.isFinite(max) ? `, at most ${max}` : "";
}
