import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { freePort, startRedisServer } from "../support/redis-server.ts";
import { ingesterAdmin, type KvatlasProcess, ready, routerAddresses, startKvatlas } from "../support/services.ts";

const started: KvatlasProcess[] = [];
let folder = "";

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "kvatlas-e2e-"));
});

afterEach(async () => {
  await Promise.all(started.splice(0).map((service) => service.stop()));
  await rm(folder, { recursive: true, force: true });
});

function start(args: readonly string[], env: Readonly<Record<string, string>> = {}): KvatlasProcess {
  const service = startKvatlas(args, env);
  started.push(service);
  return service;
}

async function configFile(text: string): Promise<string> {
  const file = join(folder, "kvatlas.yaml");
  await writeFile(file, text);
  return file;
}

const loopback = {
  KVATLAS_ROUTER_LISTEN: "127.0.0.1:0",
  KVATLAS_ROUTER_ADMIN: "127.0.0.1:0",
  KVATLAS_INGESTER_ADMIN: "127.0.0.1:0",
};

describe("a service that cannot start", () => {
  it("names every problem of the configuration, and exits 2", async () => {
    const router = start(["router", "--config", await configFile("router: { listn: x, missFactor: many }\nredis: { url: localhost }\n")]);
    expect(await router.ended).toEqual({ code: 2, signal: null });
    expect(router.stdout).toBe("");
    expect(router.stderr).toContain("3 problems in ");
    expect(router.stderr).toContain('router.listn: unknown key. Did you mean "listen"?');
    expect(router.stderr).toContain('router.missFactor: got "many", expected number from 0 to 100.');
    expect(router.stderr).toContain('redis.url: got "localhost", expected redis://');
  });

  it("says that a file is missing", async () => {
    const ingester = start(["ingester", "--config", join(folder, "nothing.yaml")]);
    expect(await ingester.ended).toEqual({ code: 2, signal: null });
    expect(ingester.stderr).toContain("cannot read the configuration file");
  });

  it.each(["router", "ingester"])("without Redis, sends the %s to all-in-one", async (name) => {
    const service = start([name], loopback);
    expect(await service.ended).toEqual({ code: 2, signal: null });
    expect(service.stderr).toContain("kvatlas all-in-one");
  });

  it("names the setting whose port is in use, and exits 1", async () => {
    const blocker = createServer();
    const port = await freePort();
    await new Promise<void>((resolve) => blocker.listen(port, "127.0.0.1", resolve));
    try {
      const service = start(["all-in-one"], { ...loopback, KVATLAS_ROUTER_LISTEN: `127.0.0.1:${port}` });
      expect(await service.ended).toEqual({ code: 1, signal: null });
      expect(service.stderr).toContain(`kvatlas: cannot listen on 127.0.0.1:${port} (router.listen): the port is in use.`);
    } finally {
      blocker.close();
    }
  });
});

describe("a service whose Redis is not there yet", { timeout: 120_000 }, () => {
  it("starts, says what it waits for, and is ready when Redis is", async () => {
    const port = await freePort();
    const env = { ...loopback, KVATLAS_REDIS_URL: `redis://127.0.0.1:${port}` };
    const file = await configFile("pools: [{ name: a, model: m }]");
    const ingester = start(["ingester", "--config", file], env);
    const router = start(["router", "--config", file], env);
    const admin = await ingesterAdmin(ingester);
    const { admin: routerAdmin } = await routerAddresses(router);
    expect((await fetch(`${admin}/livez`)).status).toBe(200);
    expect((await fetch(`${routerAdmin}/livez`)).status).toBe(200);
    const unready = await fetch(`${admin}/readyz`);
    expect(unready.status).toBe(503);
    expect(((await unready.json()) as { readonly reasons: readonly string[] }).reasons.length).toBeGreaterThan(0);
    await ingester.line((line) => (line.msg === "redis cannot be reached; trying again" ? line : undefined));

    const doctor = start(["doctor"], env);
    expect((await doctor.ended).code).toBe(1);
    expect(doctor.stdout).toContain("PROBLEM  redis: Redis has not answered");
    const inspect = start(["inspect", "stats"], env);
    expect((await inspect.ended).code).toBe(1);
    expect(inspect.stderr).toMatch(/^kvatlas: .*Redis/m);

    const redis = await startRedisServer({ port });
    try {
      await ready(admin);
      expect(await ingester.stop()).toEqual({ code: 0, signal: null });
      expect(await router.stop()).toEqual({ code: 0, signal: null });
    } finally {
      await redis.stop();
    }
  });
});
