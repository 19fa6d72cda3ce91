import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { SequencedOps } from "@kvatlas/shared/index/block-index";
import { chainOf } from "@kvatlas/shared/index/block-index.contract";
import { createRedisBlockIndex } from "@kvatlas/shared/index/redis-block-index";
import { createRedisKeys } from "@kvatlas/shared/index/redis-keys";
import { silentLogger } from "@kvatlas/shared/logger";
import { createRedisConnection } from "@kvatlas/shared/redis";
import { createRedisEndpointRegistry } from "@kvatlas/shared/registry/redis-endpoint-registry";
import type { EndpointId, ScopeId } from "@kvatlas/shared/types";
import { Redis } from "ioredis";
import { afterEach, describe, expect, it } from "vitest";
import { applyThroughLosses } from "../support/apply-through-losses.ts";
import { eventually, eventuallyTrue } from "../support/eventually.ts";
import { freePort, type RedisServer, startRedisServer } from "../support/redis-server.ts";

const scope = "errors.b16" as ScopeId;
const endpoint = "10.0.0.1:8000" as EndpointId;
const chain = chainOf(1, 100);
const log = chain.map((key, seq): SequencedOps => ({ seq, ops: [{ op: "store", medium: "gpu", group: 0, keys: [key] }] }));
const unavailable = (words: string) => ({ code: "KVATLAS_REDIS_UNAVAILABLE", retryable: true, message: expect.stringContaining(words) });
const toClose: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  for (const close of toClose.splice(0).reverse()) await close();
});

async function setUp(server: RedisServer) {
  const connection = createRedisConnection({ url: server.url, commandTimeoutMs: 1_000 }, "background", silentLogger);
  const raw = new Redis(server.url);
  raw.on("error", () => {});
  toClose.push(
    () => connection.close(),
    async () => raw.disconnect(),
  );
  const keys = createRedisKeys("kva");
  const index = createRedisBlockIndex({ connection, keys });
  const registry = createRedisEndpointRegistry({ connection, keys });
  const expectWhole = async () => {
    const [matches] = await index.lookup([{ scope, keys: chain }], { method: "exact" });
    expect(matches?.get(endpoint)?.blocks).toBe(chain.length);
    const holders = await Promise.all(chain.map((key) => index.holders(scope, key)));
    expect(holders.every(([holder]) => holder?.copies.gpu === 1)).toBe(true);
  };
  return { connection, raw, index, registry, expectWhole };
}

async function server(options: Parameters<typeof startRedisServer>[0] = {}): Promise<RedisServer> {
  const started = await startRedisServer(options);
  toClose.push(() => started.stop());
  return started;
}

describe("a Redis that cannot serve for a while", () => {
  it("because it has become a replica (READONLY) refuses writes, and takes them when it is a primary again", async () => {
    const other = await server();
    const { index, raw, expectWhole } = await setUp(await server());
    const writer = await index.openWriter({ scope, endpoint, incarnation: 1, from: 0, fence: 1 });
    await writer.apply(log.slice(0, 50));
    await raw.replicaof("127.0.0.1", String(other.port));
    await eventually(() => expect(writer.apply(log.slice(50))).rejects.toMatchObject(unavailable("replica")));
    await raw.call("REPLICAOF", "NO", "ONE");
    await applyThroughLosses(writer, log, 50);
    await expectWhole();
  });

  it("because a script keeps it busy (BUSY) says so, and goes on when that is over", async () => {
    const { index, raw, expectWhole } = await setUp(await server({ args: ["--busy-reply-threshold", "20"] }));
    const killer = raw.duplicate();
    killer.on("error", () => {});
    toClose.push(async () => killer.disconnect());
    await killer.ping();
    const writer = await index.openWriter({ scope, endpoint, incarnation: 1, from: 0, fence: 1 });
    await writer.apply(log.slice(0, 50));
    const endless = expect(raw.eval("while true do end", 0)).rejects.toThrow(/killed/i);
    await eventually(() => expect(killer.ping()).rejects.toThrow(/BUSY/));
    await expect(writer.apply(log.slice(50))).rejects.toMatchObject(unavailable("busy"));
    await killer.script("KILL");
    await endless;
    await applyThroughLosses(writer, log, 50);
    await expectWhole();
  });

  it("because it loads its data (LOADING) counts as not there, and has everything afterwards", async () => {
    const folder = await mkdtemp(join(tmpdir(), "kvatlas-loading-"));
    toClose.push(() => rm(folder, { recursive: true, force: true }));
    const first = await server({ folder });
    const { index, raw, connection, expectWhole } = await setUp(first);
    const writer = await index.openWriter({ scope, endpoint, incarnation: 1, from: 0, fence: 1 });
    await writer.apply(log.slice(0, 50));
    await raw.save();
    await first.stop();
    // 10 ms a key, and an ear for clients after every few.
    const starting = server({
      port: first.port,
      folder,
      args: ["--key-load-delay", "10000", "--loading-process-events-interval-bytes", "1024"],
    });
    const probe = new Redis(first.port, "127.0.0.1", { enableReadyCheck: false, retryStrategy: () => 10 });
    probe.on("error", () => {});
    toClose.push(async () => probe.disconnect());
    await eventually(() => expect(probe.get("x")).rejects.toThrow(/LOADING/));
    expect(await connection.connected(1)).toBe(false);
    await starting;
    expect(await applyThroughLosses(writer, log, 50)).toEqual([]);
    await expectWhole();
  });

  it("because its memory is full (OOM) keeps what it has, refuses more, and never applies half a call", async () => {
    const { index, raw, expectWhole } = await setUp(await server());
    const writer = await index.openWriter({ scope, endpoint, incarnation: 1, from: 0, fence: 1 });
    await writer.apply(log.slice(0, 50));
    await raw.config("SET", "maxmemory", "1mb");
    for (const part of [log.slice(50), log.slice(50, 51)]) await expect(writer.apply(part)).rejects.toMatchObject(unavailable("maxmemory"));
    const [matches] = await index.lookup([{ scope, keys: chain }]);
    expect(matches?.get(endpoint)?.blocks).toBe(50);
    await raw.config("SET", "maxmemory", "0");
    expect(await applyThroughLosses(writer, log, 50)).toEqual([]);
    await expectWhole();
  });

  it("because connections are cut again and again applies everything once", async () => {
    const { index, raw, expectWhole } = await setUp(await server());
    const writer = await index.openWriter({ scope, endpoint, incarnation: 1, from: 0, fence: 1 });
    for (const batch of log.slice(0, 15)) {
      // Somewhere between the command and its answer.
      const cut = raw.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes");
      await applyThroughLosses(writer, [batch], 0);
      await cut;
      await raw.script("FLUSH");
    }
    await applyThroughLosses(writer, log, 0);
    await expectWhole();
  });
});

describe("a Redis that comes back empty", () => {
  it("is filled again: scope, lease, fence and incarnation are new ones that nobody of before can be mistaken for", async () => {
    const port = await freePort();
    const first = await server({ port });
    const { index, registry, raw, expectWhole } = await setUp(first);
    const spec = { model: "m", blockSizeTokens: 16, scheme: { kind: "content", seed: "0" } } as const;
    await registry.ensureScope(scope, spec);
    const before = await registry.acquire(endpoint, "before", 60_000);
    if (before === null) throw new Error("no lease");
    await registry.startIncarnation(before, 0);
    const incarnation = (await registry.startIncarnation(before, 0)) ?? 0;
    const former = await index.openWriter({ scope, endpoint, incarnation, from: 0, fence: before.fence });
    await former.apply(log);
    await first.stop();
    await server({ port });

    // Its owner of before has not noticed yet and writes again, under the number it has.
    await eventuallyTrue(async () => (await registry.scopes()).size === 0);
    const late = { seq: log.length, ops: log[0]?.ops ?? [] };
    expect(await applyThroughLosses(former, [...log, late], log.length)).toEqual([-1]);
    expect(await registry.renew(before, 60_000)).toBe(false);

    const after = await registry.acquire(endpoint, "after", 60_000);
    if (after === null) throw new Error("no lease");
    expect(after.fence).toBeGreaterThan(before.fence);
    expect(await registry.ensureScope(scope, spec)).toBe(1);
    const next = (await registry.startIncarnation(after, 0)) ?? 0;
    expect(next).toBeGreaterThan(incarnation);
    const writer = await index.openWriter({ scope, endpoint, incarnation: next, from: 0, fence: after.fence });
    expect(writer.applied).toBe(-1);
    await writer.apply(log);
    await expect(former.apply([{ ...late, seq: late.seq + 1 }])).rejects.toMatchObject({ code: "KVATLAS_INDEX_FENCED" });
    await expectWhole();
    for (let cursor: string | null = "0"; cursor !== null; ) cursor = (await index.sweep(scope, cursor, 1_000)).next;
    expect(await raw.dbsize()).toBeGreaterThan(chain.length);
    await expectWhole();
  });
});
