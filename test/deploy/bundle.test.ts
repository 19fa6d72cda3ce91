import { mkdtemp, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { runTool } from "../support/deploy-tools.ts";

describe("the production bundle, made in an empty folder", { timeout: 300_000 }, () => {
  let folder = "";

  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), "kvatlas-bundle-"));
    const { code, stderr } = await runTool(process.execPath, ["scripts/bundle.mjs", folder]);
    expect(code, stderr).toBe(0);
  }, 300_000);

  afterAll(async () => {
    await rm(folder, { recursive: true, force: true });
  });

  it("runs the quickstart", async () => {
    const { code, stdout, stderr } = await runTool(process.execPath, [
      join(folder, "packages/cli/bin/kvatlas.mjs"),
      "quickstart",
      "--once",
      "--json",
    ]);
    expect(code, stderr).toBe(0);
    expect(JSON.parse(stdout)).toMatchObject({ ok: true, rounds: [{ mode: "precise" }, { mode: "precise" }] });
  });

  it("has no tools of developers, no tests and no sources", async () => {
    const installed = await readdir(join(folder, "node_modules/.pnpm"));
    expect(installed.filter((name) => /^(vitest|typescript|tsx|@biomejs\+biome|fast-check|esbuild)@/.test(name))).toEqual([]);
    const files = await readdir(join(folder, "packages"), { recursive: true });
    expect(files.filter((name) => !name.includes("node_modules") && /\.test\.|\.ts$/.test(name))).toEqual([]);
  });

  it("refuses a folder that is not empty", async () => {
    const { code, stderr } = await runTool(process.execPath, ["scripts/bundle.mjs", folder]);
    expect(code).toBe(2);
    expect(stderr).toContain("is not empty");
  });
});
