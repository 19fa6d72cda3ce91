import { usageError } from "../args.ts";

/** What a router of the quick start goes by. */
export type QuickstartMode = "precise" | "estimated" | "off";

const known: readonly QuickstartMode[] = ["precise", "estimated", "off"];

/**
 * `--mode`: the one whose conversation is judged, then those that are shown beside it. One alone has round robin beside it.
 *
 * @throws KVATLAS_CLI_USAGE
 */
export function parseModes(text: string): readonly [QuickstartMode, ...QuickstartMode[]] {
  const modes = text.split(",").map((part) => {
    const mode = known.find((candidate) => candidate === part.trim());
    if (mode === undefined) throw usageError(`option --mode: got "${text}", expected ${known.join(", ")}, or several with commas.`);
    return mode;
  });
  if (new Set(modes).size < modes.length) throw usageError(`option --mode: got "${text}", which has a mode twice.`);
  const [main, ...others] = modes;
  if (main === undefined) throw usageError(`option --mode: got "${text}", expected ${known.join(", ")}, or several with commas.`);
  return others.length > 0 || main === "off" ? [main, ...others] : [main, "off"];
}
