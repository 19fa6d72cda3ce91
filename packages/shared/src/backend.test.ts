import { Registry } from "prom-client";
import { describe, expect, it } from "vitest";
import { createMemoryBackend, createRedisBackend } from "./backend.ts";
import { silentLogger } from "./logger.ts";

describe("a backend in memory", () => {
  it("is there at once, and measures its index where it is told to", async () => {
    const metrics = new Registry();
    const backend = createMemoryBackend({ metrics });
    expect(await backend.connected(0)).toBe(true);
    await backend.index.lookup([]);
    expect(await metrics.metrics()).toContain('operation="lookup"');
    await backend.close();
  });
});

describe("a backend in Redis", () => {
  it("needs to be told where Redis is", () => {
    const create = () => createRedisBackend({ url: null, keyPrefix: "kva", commandTimeoutMs: 50 }, "request", silentLogger);
    expect(create).toThrow(/No Redis is configured/);
  });
});
