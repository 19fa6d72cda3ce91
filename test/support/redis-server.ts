import { type ChildProcess, spawn } from "node:child_process";
import { access, constants, mkdtemp, rm } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { basename, delimiter, join } from "node:path";
import { endsWithThisProcess } from "./child-processes.ts";
import { freePortRange } from "./free-ports.ts";

/** A Redis process of the tests' own: nobody else's data is in it, and it may be paused, killed and started again. */
export interface RedisServer {
  readonly url: string;
  readonly port: number;
  readonly pid: number;
  /** SIGSTOP: the server is there and answers nothing. */
  pause(): void;
  resume(): void;
  /** SIGKILL, and waits until the port is free again. Safe to call twice. */
  stop(): Promise<void>;
}

export interface RedisServerOptions {
  /** Path of the server's executable. @defaultValue {@link serverProgram} */
  readonly program?: string;
  /** @defaultValue a free port */
  readonly port?: number;
  /** Further command-line arguments, e.g. `["--requirepass", "secret"]`. */
  readonly args?: readonly string[];
  /** Pins the server to these cores through `taskset`, e.g. "0"; for benches. */
  readonly cores?: string;
  /** Where its files are; kept when it stops, and a `dump.rdb` in it is loaded at the start. @defaultValue a folder of its own, removed with it */
  readonly folder?: string;
  /** Runs as a Sentinel with this configuration file, which it rewrites. */
  readonly sentinelFile?: string;
}

/** Full path of the first of these programs on PATH, or null. */
export async function findProgram(...names: readonly string[]): Promise<string | null> {
  for (const name of names) {
    for (const folder of (process.env.PATH ?? "").split(delimiter)) {
      const candidate = join(folder, name);
      try {
        await access(candidate, constants.X_OK);
        return candidate;
      } catch {
        // Not here.
      }
    }
  }
  return null;
}

/** How to get what {@link serverProgram} looks for. */
export const howToGetRedis =
  "put redis-server or valkey-server (7 or later) on PATH (Debian, Ubuntu: apt-get install redis-server; macOS: brew install redis), or name one in KVATLAS_TEST_REDIS_SERVER";

/** The server that tests start: KVATLAS_TEST_REDIS_SERVER, else `redis-server` or `valkey-server` on PATH; null when there is none. */
export async function serverProgram(): Promise<string | null> {
  const named = process.env.KVATLAS_TEST_REDIS_SERVER ?? "";
  return named !== "" ? named : await findProgram("redis-server", "valkey-server");
}

/** Every kind of server that there is on this machine: that of {@link serverProgram}, and a Valkey (KVATLAS_TEST_VALKEY, or on PATH) when that is another. */
export async function serverPrograms(): Promise<readonly { readonly name: string; readonly program: string }[]> {
  const first = await serverProgram();
  if (first === null) throw new Error(`This test starts a Redis of its own: ${howToGetRedis}.`);
  const named = process.env.KVATLAS_TEST_VALKEY ?? "";
  const valkey = named !== "" ? named : await findProgram("valkey-server");
  const programs = valkey === null || valkey === first ? [first] : [first, valkey];
  return programs.map((program) => ({ name: basename(program), program }));
}

/** A TCP port that is free at this moment. */
export function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const probe = createServer();
    probe.once("error", reject);
    probe.listen(0, "127.0.0.1", () => {
      const address = probe.address();
      probe.close(() => (address !== null && typeof address === "object" ? resolve(address.port) : reject(new Error("no port"))));
    });
  });
}

/** Starts `redis-server` or `valkey-server` without persistence and waits until it accepts connections (10 s at most). */
export async function startRedisServer(options: RedisServerOptions = {}): Promise<RedisServer> {
  const program = options.program ?? (await serverProgram());
  if (program === null) throw new Error(`This test starts a Redis of its own: ${howToGetRedis}.`);
  const port = options.port ?? (await freePortRange(1));
  const folder = options.folder ?? (await mkdtemp(join(tmpdir(), "kvatlas-redis-")));
  const discardFolder = async (): Promise<void> => {
    if (options.folder === undefined) await rm(folder, { recursive: true, force: true });
  };
  const storage = ["--save", "", "--appendonly", "no"];
  const kind = options.sentinelFile === undefined ? storage : [options.sentinelFile, "--sentinel"];
  const args = [...kind, "--port", String(port), "--bind", "127.0.0.1", "--dir", folder, ...(options.args ?? [])];
  const [command, commandArgs] = options.cores === undefined ? [program, args] : ["taskset", ["-c", options.cores, program, ...args]];
  const child = spawn(command, commandArgs, { stdio: ["ignore", "pipe", "pipe"] });
  // A test run that dies takes its server along.
  const release = endsWithThisProcess(child);
  const gone = new Promise<void>((resolve) => child.once("exit", () => resolve()));
  try {
    await ready(child);
  } catch (error) {
    child.kill("SIGKILL");
    release();
    await discardFolder();
    throw error;
  }
  const pid = child.pid ?? 0;
  return {
    url: `redis://127.0.0.1:${port}`,
    port,
    pid,
    pause: () => void child.kill("SIGSTOP"),
    resume: () => void child.kill("SIGCONT"),
    stop: async () => {
      child.kill("SIGKILL");
      await gone;
      release();
      await discardFolder();
    },
  };
}

function ready(child: ChildProcess): Promise<void> {
  return new Promise((resolve, reject) => {
    let output = "";
    const timer = setTimeout(() => reject(new Error(`redis-server is not ready after 10 s:\n${output}`)), 10_000);
    const read = (chunk: Buffer) => {
      if (output.length < 65_536) output += chunk.toString();
      if (output.includes("Ready to accept connections") || output.includes("Sentinel ID is")) {
        clearTimeout(timer);
        resolve();
      }
    };
    child.stdout?.on("data", read);
    child.stderr?.on("data", read);
    child.once("error", (error) => {
      clearTimeout(timer);
      reject(error);
    });
    child.once("exit", (code) => {
      clearTimeout(timer);
      reject(new Error(`redis-server ended with ${code}:\n${output}`));
    });
  });
}
