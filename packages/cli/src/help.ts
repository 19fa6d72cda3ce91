import { allOptions } from "./args.ts";
import type { Command, OptionSpec } from "./command.ts";

/** Text of `kvatlas <command> --help`. */
export function commandHelp(command: Command): string {
  const rows = Object.entries(allOptions(command)).map(([name, spec]) => [optionForm(name, spec), spec.description] as const);
  return [
    `kvatlas ${command.name}: ${command.summary}`,
    "",
    `Usage: kvatlas ${command.usage}`,
    ...(command.description === undefined ? [] : ["", command.description]),
    "",
    "Options:",
    ...table(rows),
    "",
    "Examples:",
    ...command.examples.map((example) => `  ${example}`),
    "",
  ].join("\n");
}

/** Text of `kvatlas --help`. */
export function generalHelp(commands: readonly { readonly name: string; readonly summary: string }[]): string {
  return [
    "kvatlas: prefix-cache-aware routing for vLLM with one shared, exact index",
    "",
    "Usage: kvatlas <command> [options]",
    "",
    "Commands:",
    ...table(commands.map(({ name, summary }) => [name, summary] as const)),
    "",
    "Examples:",
    "  kvatlas quickstart                        three simulated replicas, an ingester and a router on this machine",
    "  kvatlas all-in-one --config kvatlas.yaml  ingester and router in one process",
    "  kvatlas <command> --help                  options and examples of a command",
    "",
    "From a checkout: npm run kvatlas -- <command> [options]",
    "",
  ].join("\n");
}

function optionForm(name: string, spec: OptionSpec): string {
  const short = spec.short === undefined ? "    " : `-${spec.short}, `;
  return `${short}--${name}${spec.type === "string" ? ` ${spec.value ?? "VALUE"}` : ""}`;
}

/** Rows of two aligned columns; a long left side puts the right one on its own line. */
function table(rows: readonly (readonly [string, string])[]): string[] {
  const width = Math.min(34, Math.max(...rows.map(([left]) => left.length)));
  return rows.map(([left, right]) =>
    left.length <= width ? `  ${left.padEnd(width)}  ${right}` : `  ${left}\n  ${" ".repeat(width)}  ${right}`,
  );
}
