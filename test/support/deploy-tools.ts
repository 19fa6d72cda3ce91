import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { delimiter } from "node:path";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("../..", import.meta.url));

/** Where a tool is: `.kvatlas/tools` (scripts/install-tools.mjs), else the PATH; null when it is nowhere. */
export function findTool(name: string): string | null {
  const folders = [`${root}.kvatlas/tools`, ...(process.env.PATH ?? "").split(delimiter)];
  for (const folder of folders) {
    if (folder !== "" && existsSync(`${folder}/${name}`)) return `${folder}/${name}`;
  }
  return null;
}

export interface ToolResult {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs a program from the repository's folder to its end; rejects only when it cannot be started. */
export async function runTool(file: string, args: readonly string[], input = ""): Promise<ToolResult> {
  const child = spawn(file, args, { cwd: root, stdio: ["pipe", "pipe", "pipe"] });
  const out: Buffer[] = [];
  const err: Buffer[] = [];
  child.stdout.on("data", (chunk: Buffer) => out.push(chunk));
  child.stderr.on("data", (chunk: Buffer) => err.push(chunk));
  // A program that does not read its input may be gone before it is written.
  child.stdin.on("error", () => {});
  child.stdin.end(input);
  const code = await new Promise<number | null>((resolve, reject) => {
    child.on("error", reject);
    child.on("close", resolve);
  });
  return { code, stdout: Buffer.concat(out).toString(), stderr: Buffer.concat(err).toString() };
}
