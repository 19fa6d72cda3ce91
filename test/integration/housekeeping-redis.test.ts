import { type Backend, createMemoryBackend, createRedisBackend } from "@kvatlas/shared/backend";
import { configSchema } from "@kvatlas/shared/config/schema";
import { silentLogger } from "@kvatlas/shared/logger";
import type { BlockKey, EndpointId, ScopeId } from "@kvatlas/shared/types";
import { Redis } from "ioredis";
import { afterEach, describe, expect, it } from "vitest";
import { startRedisServer } from "../support/redis-server.ts";

const a = "10.0.0.1:8000" as EndpointId;
const b = "[::1]:8000/3" as EndpointId;
const spec = { model: "m", blockSizeTokens: 16, scheme: { kind: "native", algorithm: "sha256_cbor", seed: "0" } } as const;
const scope = "m.b16" as ScopeId;
const cleanups: (() => Promise<unknown>)[] = [];

afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

/** A Redis of its own: these tests look at everything in it. */
async function redisBackend(): Promise<{ readonly backend: Backend; readonly raw: Redis }> {
  const server = await startRedisServer();
  cleanups.push(() => server.stop());
  const raw = new Redis(server.url);
  const backend = createRedisBackend(configSchema.parse({ redis: { url: server.url } }).redis, "background", silentLogger);
  cleanups.push(async () => {
    raw.disconnect();
    await backend.close();
  });
  return { backend, raw };
}

const keysOf = (count: number): BlockKey[] =>
  Array.from({ length: count }, (_, i) => (Math.imul(i + 1, 0x9e3779b1) >>> 0).toString(16).padStart(16, "0") as BlockKey);

async function fill(backend: Backend, blocks: number): Promise<void> {
  await backend.registry.ensureScope(scope, spec);
  const keys = keysOf(blocks);
  const writer = await backend.index.openWriter({ scope, endpoint: a, incarnation: 1, from: 0, fence: 1 });
  await writer.apply([{ seq: 0, ops: [{ op: "store", medium: "gpu", group: 0, keys }] }]);
  const other = await backend.index.openWriter({ scope, endpoint: b, incarnation: 2, from: 0, fence: 1 });
  await other.apply([{ seq: 0, ops: [{ op: "store", medium: "cpu", group: 0, keys: keys.slice(0, blocks / 2) }] }]);
  await backend.index.openWriter({ scope, endpoint: b, incarnation: 3, from: 0, fence: 1 });
}

describe("a census of the index", () => {
  it("counts everything where everything was looked at", async () => {
    const { backend } = await redisBackend();
    await fill(backend, 1_000);
    const census = await backend.index.census(1_000_000);
    expect(census).toMatchObject({ isExact: true });
    const counted = census.scopes.get(scope);
    expect(counted).toMatchObject({
      blocks: 1_000,
      holders: new Map([
        [a, { live: 1_000, dead: 0 }],
        [b, { live: 0, dead: 500 }],
      ]),
    });
    expect(counted?.bytes).toBeGreaterThan(50_000);
    const memory = createMemoryBackend();
    await fill(memory, 1_000);
    expect((await memory.index.census(1)).scopes.get(scope)).toMatchObject({ blocks: 1_000, holders: counted?.holders });
  });

  it("projects from a part otherwise, other keys left out", async () => {
    const { backend, raw } = await redisBackend();
    await fill(backend, 20_000);
    const strangers = raw.pipeline();
    for (let i = 0; i < 20_000; i += 1) strangers.set(`stranger:${i}`, "x");
    await strangers.exec();
    const { isExact, examined, total, scopes } = await backend.index.census(8_000);
    expect(isExact).toBe(false);
    expect(examined).toBeLessThan(12_000);
    expect(total).toBeGreaterThan(40_000);
    const counted = scopes.get(scope);
    expect(Math.abs((counted?.blocks ?? 0) / 20_000 - 1)).toBeLessThan(0.1);
    expect(Math.abs((counted?.holders.get(b)?.dead ?? 0) / 10_000 - 1)).toBeLessThan(0.1);
  });
});

describe("records of housekeeping", () => {
  it("are kept and withdrawn, the same in Redis and in memory", async () => {
    const { backend, raw } = await redisBackend();
    for (const { housekeeping } of [backend, createMemoryBackend()]) {
      await housekeeping.saveProgress("sweep m.b16", "{}");
      await housekeeping.saveProgress("other", "x");
      await housekeeping.saveProgress("other", null);
      expect(await housekeeping.progress()).toEqual(new Map([["sweep m.b16", "{}"]]));
      await housekeeping.requestRebuild({ endpoint: a, incarnation: 3, reason: "early" });
      await housekeeping.requestRebuild({ endpoint: a, incarnation: 4, reason: "2 phantoms: a, b\nand more" });
      expect(await housekeeping.rebuildRequests()).toEqual([{ endpoint: a, incarnation: 4, reason: "2 phantoms: a, b\nand more" }]);
      await housekeeping.endRebuild(a, 3);
      expect(await housekeeping.rebuildRequests()).toHaveLength(1);
      await housekeeping.endRebuild(a, 4);
      await housekeeping.endRebuild(a, 4);
      expect(await housekeeping.rebuildRequests()).toEqual([]);
    }
    await raw.hset("kva:rebuild", a, "nonsense");
    expect(await backend.housekeeping.rebuildRequests()).toEqual([]);
    await backend.housekeeping.endRebuild(a, 1);
    expect(await raw.hlen("kva:rebuild")).toBe(0);
  });
});
