import { Redis } from "ioredis";
import { describe, expect, it } from "vitest";
import { testRedisUrl, uniqueKeyPrefix } from "./redis.ts";
import { startRedisServer } from "./redis-server.ts";

describe("the Redis of the test run", () => {
  it("is a real one that keeps what is written", async () => {
    const client = new Redis(testRedisUrl());
    const key = uniqueKeyPrefix();
    await client.set(key, "kept", "PX", 60_000);
    expect(await client.get(key)).toBe("kept");
    await client.quit();
  });

  it("differs from one a test starts for itself, which can be stopped and started again on its port", async () => {
    const first = await startRedisServer();
    expect(first.url).not.toBe(testRedisUrl());
    await first.stop();
    const second = await startRedisServer({ port: first.port });
    const client = new Redis(second.url);
    expect(await client.dbsize()).toBe(0);
    await client.quit();
    await second.stop();
  });
});
