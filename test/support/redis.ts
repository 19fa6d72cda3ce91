import { execFile } from "node:child_process";
import { randomBytes } from "node:crypto";
import { promisify } from "node:util";
import { inject } from "vitest";
import { findProgram, howToGetRedis, serverProgram, startRedisServer } from "./redis-server.ts";

declare module "vitest" {
  export interface ProvidedContext {
    redisUrl: string;
  }
}

/** The Redis of one test run, shared by its files. */
export interface TestRedis {
  readonly url: string;
  /** Which one it is, for the log. */
  readonly description: string;
  stop(): Promise<void>;
}

/**
 * Chooses a real Redis, in this order: KVATLAS_TEST_REDIS_URL; KVATLAS_TEST_REDIS_SERVER, else `redis-server` or `valkey-server` on PATH;
 * `apt-get install redis-server` where that is possible (root on Debian or Ubuntu); Docker. Tests of failures start servers of their own, for which
 * only a program will do.
 *
 * @throws Error with the one thing to do when there is none.
 */
export async function startTestRedis(): Promise<TestRedis> {
  const url = process.env.KVATLAS_TEST_REDIS_URL;
  if (url !== undefined && url !== "") {
    return { url, description: "Redis of KVATLAS_TEST_REDIS_URL", stop: async () => {} };
  }
  const local = (await startLocal()) ?? ((await installWithApt()) ? await startLocal() : null);
  if (local !== null) return local;
  const container = await startContainer();
  if (container !== null) return container;
  throw new Error(
    `The tests need a real Redis: ${howToGetRedis}. Docker, or a server in KVATLAS_TEST_REDIS_URL, are enough for those that kill none.`,
  );
}

/** URL of the run's Redis, inside a test file. */
export function testRedisUrl(): string {
  return inject("redisUrl");
}

/** A key prefix nobody else uses: how test files sharing one Redis keep apart. Nothing ever flushes it. */
export function uniqueKeyPrefix(): string {
  return `kvtest-${randomBytes(6).toString("hex")}`;
}

async function startLocal(): Promise<TestRedis | null> {
  const program = await serverProgram();
  if (program === null) return null;
  const server = await startRedisServer();
  return { url: server.url, description: `${program} on port ${server.port}`, stop: () => server.stop() };
}

async function startContainer(): Promise<TestRedis | null> {
  // Loaded only where it is needed: it takes half a second.
  const { GenericContainer, getContainerRuntimeClient } = await import("testcontainers");
  try {
    // Throws within milliseconds where no engine answers.
    await getContainerRuntimeClient();
  } catch {
    return null;
  }
  const container = await new GenericContainer("redis:7-alpine").withExposedPorts(6379).start();
  return {
    url: `redis://${container.getHost()}:${container.getMappedPort(6379)}`,
    description: "redis:7-alpine in Docker",
    stop: async () => void (await container.stop()),
  };
}

async function installWithApt(): Promise<boolean> {
  if (process.getuid?.() !== 0 || (await findProgram("apt-get")) === null) return false;
  const run = promisify(execFile);
  const env = { ...process.env, DEBIAN_FRONTEND: "noninteractive" };
  try {
    await run("apt-get", ["update", "-qq"], { env, timeout: 120_000 });
    await run("apt-get", ["install", "-y", "-qq", "--no-install-recommends", "redis-server"], { env, timeout: 180_000 });
    return true;
  } catch {
    return false;
  }
}
