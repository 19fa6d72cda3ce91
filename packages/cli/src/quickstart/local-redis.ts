import { type ChildProcess, spawn } from "node:child_process";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { KvatlasError } from "@kvatlas/shared/errors";
import { freePort } from "./free-port.ts";

export interface LocalRedis {
  readonly url: string;
  close(): Promise<void>;
}

const startDeadlineMs = 10_000;

/**
 * Starts `redis-server` on a free port of this machine, without persistence.
 *
 * @throws KVATLAS_REDIS_UNAVAILABLE it is not installed or does not start.
 */
export async function startLocalRedis(): Promise<LocalRedis> {
  const port = await freePort();
  const directory = await mkdtemp(join(tmpdir(), "kvatlas-redis-"));
  const args = ["--port", String(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", directory];
  const child = spawn("redis-server", args, { stdio: ["ignore", "pipe", "inherit"] });
  const exited = new Promise<void>((resolve) => {
    child.once("exit", () => resolve());
    child.once("error", () => resolve());
  });
  const close = async () => {
    child.kill("SIGTERM");
    await exited;
    await rm(directory, { recursive: true, force: true });
  };
  try {
    await ready(child);
  } catch (error) {
    await close();
    throw error;
  }
  return { url: `redis://127.0.0.1:${port}`, close };
}

/** Resolves when the server says on its standard output that it accepts connections. */
function ready(child: ChildProcess): Promise<void> {
  return new Promise((resolve, reject) => {
    const fail = (reason: string, cause?: unknown) =>
      reject(new KvatlasError("KVATLAS_REDIS_UNAVAILABLE", `cannot start redis-server: ${reason}`, { cause }));
    const timer = setTimeout(() => fail(`it is not ready after ${startDeadlineMs} ms.`), startDeadlineMs);
    child.once("error", (error: NodeJS.ErrnoException) => {
      clearTimeout(timer);
      const isMissing = error.code === "ENOENT";
      fail(isMissing ? "it is not installed. Install it, set KVATLAS_REDIS_URL to a server, or leave --redis away." : error.message, error);
    });
    child.once("exit", (code) => {
      clearTimeout(timer);
      fail(`it ended with exit code ${code}.`);
    });
    let output = "";
    child.stdout?.on("data", (chunk: Buffer) => {
      output = (output + chunk.toString()).slice(-4_096);
      if (!/ready to accept connections/i.test(output)) return;
      clearTimeout(timer);
      resolve();
    });
  });
}
