import type { TestProject } from "vitest/node";
import { startTestRedis } from "./redis.ts";

/** Runs once before all test files: one Redis for the run, its URL provided to them as `redisUrl`. */
export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  const redis = await startTestRedis();
  project.provide("redisUrl", redis.url);
  process.stdout.write(`tests use ${redis.description}\n`);
  return () => redis.stop();
}
