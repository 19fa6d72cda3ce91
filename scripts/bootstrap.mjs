#!/usr/bin/env node
/*
 * What every npm script runs: `node scripts/bootstrap.mjs <kvatlas|test|bench|faults|check|docs> [args]`.
 * Needs Node and npm only: installs the pinned pnpm's choice of dependencies when they are missing or the lockfile has changed,
 * then runs the task from the TypeScript sources with the same arguments, streams, signals and exit code.
 * Everything it has to say goes to stderr; stdout belongs to the task.
 */
import { spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, linkSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { fileURLToPath, pathToFileURL } from "node:url";

const root = fileURLToPath(new URL("..", import.meta.url));
const oldestNode = [20, 19];
const pnpmVersion = "10.34.8";
/** A cold install on a slow line; another process that takes longer is taken for hung. */
const installDeadlineMs = 15 * 60_000;
const stampFile = `${root}node_modules/.kvatlas-install`;
const lockFile = `${root}.kvatlas/install.lock`;

function say(text) {
  process.stderr.write(`kvatlas: ${text}\n`);
}

function fail(text, code = 1) {
  say(text);
  process.exit(code);
}

function checkNode() {
  const [major = 0, minor = 0] = process.versions.node.split(".").map(Number);
  if (major > oldestNode[0] || (major === oldestNode[0] && minor >= oldestNode[1])) return;
  fail(`Node ${process.versions.node} is too old: ${oldestNode.join(".")} or newer is needed (https://nodejs.org).`);
}

/** What has to be equal for an install to be still right. */
function wantedStamp() {
  const hash = createHash("sha256");
  for (const file of ["pnpm-lock.yaml", "pnpm-workspace.yaml"]) hash.update(readFileSync(`${root}${file}`));
  return `${hash.digest("hex")} ${process.platform}-${process.arch}\n`;
}

function isInstalled() {
  return existsSync(stampFile) && readFileSync(stampFile, "utf8") === wantedStamp();
}

async function ensureInstalled() {
  if (isInstalled()) return;
  const release = await takeLock();
  try {
    // Another process may have done it while this one waited.
    if (isInstalled()) return;
    say("installing dependencies (the first run takes a minute)");
    rmSync(stampFile, { force: true });
    const stamp = wantedStamp();
    // The levels are named because .npmrc silences npm for the sake of stdout, and errors must be seen.
    const npx = ["--yes", "--loglevel=error", `pnpm@${pnpmVersion}`];
    const code = await run(process.platform === "win32" ? "npx.cmd" : "npx", [...npx, "install", "--frozen-lockfile", "--loglevel=warn"], {
      cwd: root,
      env: { ...process.env, CI: "true" },
      stdio: ["ignore", 2, 2],
    });
    if (code !== 0) fail(`installing dependencies failed (exit code ${code}); is the npm registry reachable from here?`);
    writeFileSync(stampFile, stamp);
  } finally {
    release();
  }
}

/** One install at a time. The file holds the owner's pid and appears with its content in one step; a dead owner's is taken away. */
async function takeLock() {
  mkdirSync(`${root}.kvatlas`, { recursive: true });
  const mine = `${lockFile}.${process.pid}`;
  const deadline = Date.now() + installDeadlineMs;
  let isTold = false;
  for (;;) {
    writeFileSync(mine, String(process.pid));
    try {
      linkSync(mine, lockFile);
      return () => rmSync(lockFile, { force: true });
    } catch (error) {
      if (error.code !== "EEXIST") throw error;
    } finally {
      rmSync(mine, { force: true });
    }
    const owner = readLock();
    if (owner !== null && !isAlive(owner)) {
      breakLock(owner);
      continue;
    }
    if (!isTold && owner !== null) say(`waiting for the install of process ${owner}`);
    isTold = true;
    if (Date.now() > deadline) fail(`another install (process ${owner}) does not finish; stop it, or delete ${lockFile} if there is none.`);
    await new Promise((resolve) => setTimeout(resolve, 200));
  }
}

function readLock() {
  try {
    return Number(readFileSync(lockFile, "utf8"));
  } catch {
    return null;
  }
}

function isAlive(pid) {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return error.code === "EPERM";
  }
}

/** Of several waiters one gets to rename it; whoever catches a lock that has been renewed meanwhile puts it back. */
function breakLock(deadOwner) {
  const broken = `${lockFile}.broken.${process.pid}`;
  try {
    renameSync(lockFile, broken);
    if (Number(readFileSync(broken, "utf8")) !== deadOwner) linkSync(broken, lockFile);
  } catch {
    // Somebody else was faster.
  } finally {
    rmSync(broken, { force: true });
  }
}

/** Runs a program to its end, passing signals on; resolves with its exit code. */
function run(command, args, options) {
  return new Promise((resolve) => {
    const child = spawn(command, args, options);
    const handlers = ["SIGINT", "SIGTERM", "SIGHUP"].map((signal) => [signal, () => child.kill(signal)]);
    for (const [signal, handler] of handlers) process.on(signal, handler);
    // npm runs scripts through a shell, which dies of a SIGTERM without passing it on.
    const parent = process.ppid;
    const orphaned = setInterval(() => {
      if (process.ppid !== parent) child.kill("SIGTERM");
    }, 500);
    child.on("error", (error) => {
      clearInterval(orphaned);
      say(`cannot run ${command}: ${error.message}`);
      resolve(127);
    });
    child.on("exit", (code, signal) => {
      clearInterval(orphaned);
      for (const [name, handler] of handlers) process.off(name, handler);
      resolve(code ?? (signal === "SIGINT" ? 130 : signal === "SIGTERM" ? 143 : 1));
    });
  });
}

/** Runs a TypeScript file of the repository, workspace packages resolved to their sources. */
function runSource(file, args, cwd = root) {
  const tsx = pathToFileURL(`${root}node_modules/tsx/dist/loader.mjs`).href;
  // The channel carries nothing: its end tells the program that this process is gone.
  const stdio = ["inherit", "inherit", "inherit", "ipc"];
  return run(process.execPath, ["--conditions=@kvatlas/source", "--import", tsx, `${root}${file}`, ...args], { cwd, stdio });
}

function runTool(file, args) {
  return run(process.execPath, [`${root}node_modules/${file}`, ...args], { cwd: root, stdio: "inherit" });
}

const tasks = {
  // Relative paths in arguments are relative to where npm was called, not to the repository.
  kvatlas: (args) => runSource("packages/cli/src/main.ts", args, process.env.INIT_CWD ?? process.cwd()),
  test: (args) => runTool("vitest/vitest.mjs", ["run", ...args]),
  bench: (args) => runSource("test/bench/main.ts", args),
  faults: (args) => runSource("test/faults/main.ts", args),
  docs: (args) => runSource("scripts/generate-docs.ts", args),
  check: async () => {
    const lint = await runTool("@biomejs/biome/bin/biome", ["check", "."]);
    const types = await runTool("typescript/bin/tsc", ["-p", "tsconfig.tests.json"]);
    const build = types === 0 ? await runTool("typescript/bin/tsc", ["-b"]) : 0;
    return lint || types || build;
  },
};

const [task = "", ...args] = process.argv.slice(2);
if (!Object.hasOwn(tasks, task)) fail(`unknown task "${task}"; there are ${Object.keys(tasks).join(", ")}.`, 2);
checkNode();
await ensureInstalled();
process.exitCode = await tasks[task](args);
