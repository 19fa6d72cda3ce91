import { mkdir, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Redis } from "ioredis";
import { describe, expect, it, type TestContext } from "vitest";
import { eventually, eventuallyTrue } from "../support/eventually.ts";
import { type RedisServer, startRedisServer } from "../support/redis-server.ts";
import { type ServiceRig, startServiceRig } from "../support/service-rig.ts";

interface Scene {
  readonly server: RedisServer;
  readonly raw: Redis;
  readonly rig: ServiceRig;
}

/** A replica whose first prompt is in the index, and is found there. */
async function scene(onTestFinished: TestContext["onTestFinished"], options: Parameters<typeof startRedisServer>[0] = {}): Promise<Scene> {
  const server = await startRedisServer(options);
  onTestFinished(() => server.stop());
  const raw = new Redis(server.url);
  raw.on("error", () => {});
  onTestFinished(async () => raw.disconnect());
  const redis = { url: server.url };
  const rig = await startServiceRig({ redis: { ingester: redis, router: redis } });
  onTestFinished(() => rig.stop());
  await rig.settled(1);
  return { server, raw, rig };
}

const errorsOf = (rig: ServiceRig, service: "ingester" | "router", code: string): Promise<number> =>
  rig.metric(service, "kvatlas_redis_errors_total", { code });

/** The ingester says why it is not ready; both count the code; what the index has is still used, and requests are answered in any case. */
async function expectRefusal(rig: ServiceRig, code: string, reason: RegExp): Promise<void> {
  await rig.warm(2);
  await eventually(async () => {
    expect(rig.ingester.readiness().join(" ")).toMatch(reason);
    expect(await errorsOf(rig, "ingester", code)).toBeGreaterThan(0);
    expect(await errorsOf(rig, "router", code)).toBeGreaterThan(0);
    expect((await rig.ask(3)).status).toBe(200);
  });
}

describe.concurrent("a Redis that refuses writes", () => {
  it("because its memory is full (OOM): the index that there is serves on, readiness and metrics say so, and nothing is lost afterwards", async ({
    onTestFinished,
  }) => {
    const { raw, rig } = await scene(onTestFinished);
    await raw.config("SET", "maxmemory", "1mb");
    await expectRefusal(rig, "OOM", /maxmemory.*\(OOM\)/);
    expect(await rig.ask(1)).toEqual({ status: 200, mode: "precise" });
    await eventually(async () => {
      const [used, max] = await Promise.all(["used", "max"].map((what) => rig.metric("ingester", "kvatlas_redis_memory_bytes", { what })));
      expect(max).toBe(1_048_576);
      expect(used).toBeGreaterThan(1_048_576);
    });
    await raw.config("SET", "maxmemory", "0");
    await rig.settled(2);
  });

  it("because it has become a replica (READONLY)", async ({ onTestFinished }) => {
    const { raw, rig } = await scene(onTestFinished);
    const other = await startRedisServer();
    onTestFinished(() => other.stop());
    // A replica that cannot reach its primary keeps what it has.
    await other.stop();
    await raw.replicaof("127.0.0.1", String(other.port));
    await expectRefusal(rig, "READONLY", /replica.*\(READONLY\)/);
    await raw.call("REPLICAOF", "NO", "ONE");
    await rig.settled(2);
  });

  it("because it cannot persist (MISCONF)", async ({ onTestFinished }) => {
    const folder = await mkdtemp(join(tmpdir(), "kvatlas-misconf-"));
    onTestFinished(() => rm(folder, { recursive: true, force: true }));
    const { raw, rig } = await scene(onTestFinished, { folder });
    // No file can take the place of a folder that is not empty.
    await mkdir(join(folder, "dump.rdb", "x"), { recursive: true });
    await raw.config("SET", "save", "3600 1");
    await raw.bgsave();
    await eventuallyTrue(async () => (await raw.info("persistence")).includes("rdb_last_bgsave_status:err"));
    await expectRefusal(rig, "MISCONF", /persist.*\(MISCONF\)/);
    await raw.config("SET", "save", "");
    await rig.settled(2);
  });
});

describe.concurrent("a Redis that lets nobody in", () => {
  it("without a password (NOAUTH) is named, and used again when it does", async ({ onTestFinished }) => {
    const { raw, rig } = await scene(onTestFinished);
    await raw.config("SET", "requirepass", "secret");
    await raw.auth("secret");
    await raw.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes");
    await raw.call("CLIENT", "KILL", "TYPE", "pubsub", "SKIPME", "yes");
    await eventually(async () => {
      expect(rig.ingester.readiness().join(" ")).toMatch(/password.*\(NOAUTH\)/);
      expect(await errorsOf(rig, "ingester", "NOAUTH")).toBeGreaterThan(0);
      expect(await rig.ask(1)).toMatchObject({ status: 200 });
      expect(await errorsOf(rig, "router", "NOAUTH")).toBeGreaterThan(0);
    });
    await raw.config("SET", "requirepass", "");
    await rig.settled(2);
  });

  it("to a command or key (NOPERM) is named", async ({ onTestFinished }) => {
    const { raw, rig } = await scene(onTestFinished);
    await raw.call("ACL", "SETUSER", "default", "-zadd");
    await eventually(() => expect(rig.ingester.readiness().join(" ")).toMatch(/permission.*\(NOPERM\)/));
    await raw.call("ACL", "SETUSER", "default", "+zadd");
    await rig.settled(2);
  });
});

describe.concurrent("a Redis that does not answer for a while", () => {
  it("because a script keeps it busy (BUSY)", async ({ onTestFinished }) => {
    const { server, raw, rig } = await scene(onTestFinished);
    await raw.config("SET", "busy-reply-threshold", "20").catch(() => raw.config("SET", "lua-time-limit", "20"));
    const killer = new Redis(server.url);
    killer.on("error", () => {});
    onTestFinished(async () => killer.disconnect());
    await killer.ping();
    const endless = expect(raw.eval("while true do end", 0)).rejects.toThrow(/kill/i);
    await eventually(() => expect(killer.ping()).rejects.toThrow(/BUSY/));
    await expectRefusal(rig, "BUSY", /script.*\(BUSY\)/);
    await killer.script("KILL");
    await endless;
    await rig.settled(2);
  });

  it("because it is loading (LOADING), or gone: requests go by load meanwhile", async ({ onTestFinished }) => {
    const folder = await mkdtemp(join(tmpdir(), "kvatlas-loading-"));
    onTestFinished(() => rm(folder, { recursive: true, force: true }));
    const { server, raw, rig } = await scene(onTestFinished, { folder });
    await raw.save();
    await server.stop();
    await eventually(async () => {
      expect(await rig.ask(1)).toEqual({ status: 200, mode: expect.stringMatching(/^(load|estimated)$/) });
      expect(await errorsOf(rig, "router", "unreachable")).toBeGreaterThan(0);
    });
    // 20 ms a key, and an ear for clients after every few.
    const args = ["--key-load-delay", "20000", "--loading-process-events-interval-bytes", "1024"];
    const again = startRedisServer({ port: server.port, folder, args });
    const probe = new Redis(server.port, "127.0.0.1", { enableReadyCheck: false, retryStrategy: () => 10 });
    probe.on("error", () => {});
    onTestFinished(async () => probe.disconnect());
    await eventually(() => expect(probe.get("x")).rejects.toThrow(/LOADING/));
    expect(await rig.ask(1)).toEqual({ status: 200, mode: expect.stringMatching(/^(load|estimated)$/) });
    const loaded = await again;
    onTestFinished(() => loaded.stop());
    await rig.settled(2);
  });

  it("without its scripts (NOSCRIPT) they are sent along", async ({ onTestFinished }) => {
    const { raw, rig } = await scene(onTestFinished);
    await raw.script("FLUSH");
    await rig.settled(2);
    expect(await errorsOf(rig, "ingester", "NOSCRIPT")).toBeGreaterThan(0);
  });
});
