import { parseArgs } from "node:util";

/** What was asked for cannot be done as it was asked for; the message says why. */
export class UsageError extends Error {}

export interface Options {
  /** The last one given. */
  readonly value: (name: string) => string | undefined;
  readonly all: (name: string) => readonly string[];
  readonly has: (flag: string) => boolean;
}

/** Options of a bench as texts; flags without a value are `true`. */
export function readOptions(
  args: readonly string[],
  names: { readonly values: readonly string[]; readonly flags: readonly string[] },
): Options {
  const options: Record<string, { readonly type: "string" | "boolean"; readonly multiple?: boolean }> = {};
  for (const name of names.values) options[name] = { type: "string", multiple: true };
  for (const flag of names.flags) options[flag] = { type: "boolean" };
  let values: Readonly<Record<string, unknown>>;
  try {
    values = parseArgs({ args: [...args], options, strict: true, allowPositionals: false }).values;
  } catch (error) {
    throw new UsageError(error instanceof Error ? error.message : String(error));
  }
  const all = (name: string) => (values[name] ?? []) as readonly string[];
  return {
    value: (name) => all(name).at(-1),
    all,
    has: (flag) => values[flag] === true,
  };
}

/** `512k,1M,2M` -> numbers. */
export function readNumbers(text: string, what: string): readonly number[] {
  return text.split(",").map((part) => {
    const match = /^(\d+(?:\.\d+)?)([kM]?)$/.exec(part.trim());
    const value = match === null ? 0 : Number(match[1]) * (match[2] === "k" ? 1_000 : match[2] === "M" ? 1_000_000 : 1);
    if (value <= 0) throw new UsageError(`${what}: got "${part}", expected a number above 0 like 512k, 2M or 1.4, or several with commas.`);
    return value;
  });
}

/** Names out of a list, all of them when none is asked for. */
export function readNames<Name extends string>(text: string | undefined, known: readonly Name[], what: string): readonly Name[] {
  if (text === undefined) return known;
  return text.split(",").map((part) => {
    const name = known.find((one) => one === part.trim());
    if (name === undefined) throw new UsageError(`${what}: got "${part}", expected some of ${known.join(", ")}.`);
    return name;
  });
}
