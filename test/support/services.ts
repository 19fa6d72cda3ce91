import { spawn } from "node:child_process";
import { fileURLToPath } from "node:url";
import { eventually } from "./eventually.ts";

const root = fileURLToPath(new URL("../..", import.meta.url));

/** Only bounds a failing test: processes start as fast as others leave them of two cores. */
const startDeadlineMs = 180_000;

export interface ProcessEnd {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
}

/** A `kvatlas` command that runs as a process of its own, from the sources. */
export interface KvatlasProcess {
  readonly stdout: string;
  readonly stderr: string;
  /** Resolves when the process has ended and all of its output has arrived. */
  readonly ended: Promise<ProcessEnd>;
  /** Log lines so far (and other JSON lines of stdout). */
  lines(): readonly Readonly<Record<string, unknown>>[];
  /** First log line (or other JSON line of stdout) for which `select` has a value. Rejects when the process ends without one. */
  line<T>(select: (line: Readonly<Record<string, unknown>>) => T | undefined): Promise<T>;
  kill(signal: NodeJS.Signals): void;
  /** SIGTERM, and the end. Safe to call on a process that has ended. */
  stop(): Promise<ProcessEnd>;
}

/** Starts `kvatlas <args>`. Of the environment, `KVATLAS_*` variables are only those given here. */
export function startKvatlas(args: readonly string[], env: Readonly<Record<string, string>> = {}): KvatlasProcess {
  const inherited = Object.fromEntries(
    Object.entries(process.env).filter(([name]) => !name.startsWith("KVATLAS_") && name !== "NODE_OPTIONS"),
  );
  const main = `${root}packages/cli/src/main.ts`;
  const child = spawn(process.execPath, ["--conditions=@kvatlas/source", "--import", "tsx", main, ...args], {
    cwd: root,
    env: { ...inherited, ...env },
    stdio: ["ignore", "pipe", "pipe"],
  });
  let stdout = "";
  let stderr = "";
  child.stdout.on("data", (chunk: Buffer) => {
    stdout += chunk.toString();
  });
  child.stderr.on("data", (chunk: Buffer) => {
    stderr += chunk.toString();
  });
  let end: ProcessEnd | null = null;
  const ended = new Promise<ProcessEnd>((resolve, reject) => {
    child.once("error", reject);
    child.once("close", (code, signal) => {
      end = { code, signal };
      resolve(end);
    });
  });
  return {
    get stdout() {
      return stdout;
    },
    get stderr() {
      return stderr;
    },
    ended,
    lines: () => jsonLines(stdout),
    line: async (select) => {
      let isOver = false;
      const found = await eventually(() => {
        // Looked at before the lines: what ended before this look has said everything by then.
        isOver = end !== null;
        for (const line of jsonLines(stdout)) {
          const value = select(line);
          if (value !== undefined) return { value };
        }
        if (isOver) return null;
        throw new Error(`kvatlas ${args[0]} has not said it yet:\n${stdout}\n${stderr}`);
      }, startDeadlineMs);
      if (found === null) throw new Error(`kvatlas ${args[0]} ended with ${JSON.stringify(end)}:\n${stdout}\n${stderr}`);
      return found.value;
    },
    kill: (signal) => {
      child.kill(signal);
    },
    stop: () => {
      child.kill("SIGTERM");
      return ended;
    },
  };
}

function jsonLines(text: string): readonly Readonly<Record<string, unknown>>[] {
  return text.split("\n").flatMap((line) => {
    if (!line.startsWith("{")) return [];
    try {
      return [JSON.parse(line) as Readonly<Record<string, unknown>>];
    } catch {
      // The last one may have arrived in part.
      return [];
    }
  });
}

/** Addresses of a router, once it accepts requests. */
export async function routerAddresses(router: KvatlasProcess): Promise<{ readonly url: string; readonly admin: string }> {
  const { address, admin } = await router.line((line) => (line.msg === "router is listening" ? line : undefined));
  return { url: `http://${String(address)}`, admin: `http://${String(admin)}` };
}

/** Address of an ingester's admin server, once it has started. */
export function ingesterAdmin(ingester: KvatlasProcess): Promise<string> {
  return ingester.line((line) => (line.msg === "ingester started" ? `http://${String(line.admin)}` : undefined));
}

/** Waits until `/readyz` says so. */
export async function ready(admin: string): Promise<void> {
  await eventually(async () => {
    const response = await fetch(`${admin}/readyz`);
    const text = await response.text();
    if (response.status !== 200) throw new Error(`${admin} is not ready: ${text}`);
  }, startDeadlineMs);
}
