import { readFile } from "node:fs/promises";
import { type LoadedConfig, loadConfig } from "@kvatlas/shared/config/load";
import { KvatlasError } from "@kvatlas/shared/errors";
import type { CommandContext, OptionSpec } from "./command.ts";

/** `--config`, the same in every command that reads the configuration. */
export const configOption: OptionSpec = {
  type: "string",
  short: "c",
  value: "FILE",
  description: "YAML file, see docs/configuration.md; KVATLAS_CONFIG where not given. KVATLAS_* variables win over it.",
};

/**
 * Reads the configuration a command was given; without a file, environment and defaults.
 *
 * @throws KVATLAS_CONFIG_INVALID the file cannot be read, or anything in it is wrong.
 */
export async function readConfig(context: Pick<CommandContext, "args" | "env">): Promise<LoadedConfig> {
  const name = context.args.string("config") ?? context.env.KVATLAS_CONFIG;
  if (name === undefined || name === "") return loadConfig({ env: context.env });
  let text: string;
  try {
    text = await readFile(name, "utf8");
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new KvatlasError("KVATLAS_CONFIG_INVALID", `cannot read the configuration file ${name}: ${reason}.`, { cause: error });
  }
  return loadConfig({ file: { name, text }, env: context.env });
}
