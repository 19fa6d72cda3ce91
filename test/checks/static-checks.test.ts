import { spawn } from "node:child_process";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";

const root = fileURLToPath(new URL("../..", import.meta.url));

/** Runs a tool of the repository; resolves with its exit code and everything it printed. */
async function runTool(file: string, args: readonly string[]): Promise<{ code: number | null; output: string }> {
  const child = spawn(process.execPath, [`${root}node_modules/${file}`, ...args], { cwd: root, stdio: ["ignore", "pipe", "pipe"] });
  const chunks: Buffer[] = [];
  child.stdout.on("data", (chunk: Buffer) => chunks.push(chunk));
  child.stderr.on("data", (chunk: Buffer) => chunks.push(chunk));
  const code = await new Promise<number | null>((resolve, reject) => {
    child.on("error", reject);
    child.on("close", resolve);
  });
  return { code, output: Buffer.concat(chunks).toString() };
}

describe("the sources", () => {
  it("are formatted, pass the linter and keep the import directions", { timeout: 180_000 }, async () => {
    expect(await runTool("@biomejs/biome/bin/biome", ["check", "--colors=off", "."])).toMatchObject({ code: 0 });
  });

  it("type-check", { timeout: 300_000 }, async () => {
    expect(await runTool("typescript/bin/tsc", ["-p", "tsconfig.tests.json", "--pretty", "false"])).toEqual({ code: 0, output: "" });
  });
});
