import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createIngester } from "@kvatlas/ingester/app";
import { type Backend, createRedisBackend } from "@kvatlas/shared/backend";
import { configSchema } from "@kvatlas/shared/config/schema";
import { createRedisKeys, scopeTag } from "@kvatlas/shared/index/redis-keys";
import { silentLogger } from "@kvatlas/shared/logger";
import { createMetricsRegistry } from "@kvatlas/shared/metrics";
import { SLOTS, slotOf } from "@kvatlas/shared/redis-slots";
import type { BlockKey, EndpointId, ScopeId } from "@kvatlas/shared/types";
import { createSimulator, type Simulator } from "@kvatlas/simulator/app";
import { Redis } from "ioredis";
import { afterEach, describe, expect, it } from "vitest";
import { eventually } from "../support/eventually.ts";
import { startRedisCluster } from "../support/redis-cluster.ts";
import { type RedisServer, startRedisServer } from "../support/redis-server.ts";
import { ingesterAdmin, type KvatlasProcess, startKvatlas } from "../support/services.ts";

const cleanups: (() => Promise<unknown>)[] = [];

afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

interface Store {
  readonly server: RedisServer;
  readonly raw: Redis;
  readonly backend: Backend;
}

async function store(): Promise<Store> {
  const server = await startRedisServer();
  cleanups.push(() => server.stop());
  const raw = new Redis(server.url);
  const backend = createRedisBackend(configSchema.parse({ redis: { url: server.url } }).redis, "background", silentLogger);
  cleanups.push(async () => {
    raw.disconnect();
    await backend.close();
  });
  return { server, raw, backend };
}

/** A Redis in one of the forms it is run in. */
interface Topology {
  readonly redis: { readonly url: string } | { readonly cluster: readonly string[] };
  readonly backend: Backend;
  /** Keys on all servers. */
  keys(): Promise<number>;
  /** Jobs that have a schedule. */
  schedules(): Promise<readonly string[]>;
}

const repeatKey = "bull:{kva}:housekeeping:repeat";

async function single(): Promise<Topology> {
  const { server, raw, backend } = await store();
  return { redis: { url: server.url }, backend, keys: () => raw.dbsize(), schedules: () => raw.zrange(repeatKey, "0", "-1") };
}

async function cluster(): Promise<Topology> {
  const nodes = await startRedisCluster();
  cleanups.push(() => nodes.stop());
  const redis = { cluster: [...nodes.nodes] };
  const backend = createRedisBackend(configSchema.parse({ redis }).redis, "background", silentLogger);
  cleanups.push(() => backend.close());
  const clients = nodes.nodes.map((_, i) => nodes.client(i));
  const owner = Math.floor((slotOf(repeatKey) * clients.length) / SLOTS);
  return {
    redis,
    backend,
    keys: async () => (await Promise.all(clients.map((client) => client.dbsize()))).reduce((sum, size) => sum + size, 0),
    schedules: () => nodes.client(owner).zrange(repeatKey, "0", "-1"),
  };
}

/** A counter of one process, summed over its labels. */
async function metric(admin: string, name: string): Promise<number> {
  const text = await (await fetch(`${admin}/metrics`)).text();
  return text
    .split("\n")
    .filter((line) => line.startsWith(`${name} `) || line.startsWith(`${name}{`))
    .reduce((sum, line) => sum + Number(line.slice(line.lastIndexOf(" ") + 1)), 0);
}

describe("housekeeping of a fleet", () => {
  it.each([
    ["one server", single],
    ["a cluster", cluster],
  ])(
    "on %s: another ingester finishes the purge in which one was killed, from where it stood; one schedule for all",
    async (_, start) => {
      const { redis, backend, keys: keysNow, schedules } = await start();
      const folder = await mkdtemp(join(tmpdir(), "kvatlas-housekeeping-"));
      cleanups.push(() => rm(folder, { recursive: true, force: true }));
      const file = join(folder, "kvatlas.yaml");
      await writeFile(
        file,
        JSON.stringify({
          redis,
          ingester: { admin: "127.0.0.1:0", heartbeatMs: 200, leaseTtlMs: 1_000 },
          // Slow enough to be met in the middle by whoever looks now and then.
          housekeeping: { purgeIntervalMs: 500, purgeBlocksPerSecond: 2_000 },
        }),
      );
      const processes = new Map<string, KvatlasProcess>();
      for (let i = 0; i < 2; i += 1) {
        const ingester = startKvatlas(["ingester", "--config", file]);
        cleanups.push(() => ingester.stop());
        processes.set(await ingesterAdmin(ingester), ingester);
      }
      const scope = "m.b16" as ScopeId;
      const endpoint = "10.0.0.1:8000" as EndpointId;
      const blocks = 8_000;
      const { registry, index } = backend;
      await registry.ensureScope(scope, {
        model: "m",
        blockSizeTokens: 16,
        scheme: { kind: "native", algorithm: "sha256_cbor", seed: "0" },
      });
      const lease = await registry.acquire(endpoint, "former", 600_000);
      if (lease === null) throw new Error("nobody else holds it");
      await registry.describe(lease, { address: endpoint, model: "m" }, Date.now());
      const incarnation = (await registry.startIncarnation(lease, 0)) ?? 0;
      const writer = await index.openWriter({ scope, endpoint, incarnation, from: 0, fence: lease.fence });
      const keys = Array.from(
        { length: blocks },
        (_, i) => (Math.imul(i + 1, 0x9e3779b1) >>> 0).toString(16).padStart(16, "0") as BlockKey,
      );
      await writer.apply([{ seq: 0, ops: [{ op: "store", medium: "gpu", group: 0, keys }] }]);
      const next = (await registry.startIncarnation(lease, 1)) ?? 0;
      await (await index.openWriter({ scope, endpoint, incarnation: next, from: 1, fence: lease.fence })).apply([
        { seq: 1, ops: [{ op: "store", medium: "gpu", group: 0, keys: keys.slice(0, 100) }] },
      ]);
      // Nobody purges for an endpoint that has no scope: both are there when it begins.
      await registry.describe(lease, { scope }, Date.now());

      const swept = (admin: string) => metric(admin, "kvatlas_ingester_swept_blocks_total");
      const sweeping = await eventually(async () => {
        for (const admin of processes.keys()) if ((await swept(admin)) >= 1_000) return admin;
        throw new Error("nobody purges");
      }, 60_000);
      processes.get(sweeping)?.kill("SIGKILL");
      await processes.get(sweeping)?.ended;
      const left = [...processes.keys()].find((admin) => admin !== sweeping) ?? "";
      const stood = await keysNow();
      expect(stood).toBeGreaterThan(1_000);
      await eventually(async () => {
        const counted = (await index.census(1_000_000)).scopes.get(scope);
        expect(counted).toMatchObject({ blocks: 100, holders: new Map([[endpoint, { live: 100, dead: 0 }]]) });
      }, 100_000);
      // Not from the beginning: what the first one has swept is not examined again.
      expect(await swept(left)).toBeLessThanOrEqual(stood + 100);
      expect(await swept(left)).toBeGreaterThan(0);
      expect([...(await schedules())].sort()).toEqual(["audit", "forget-departed", "purge"]);
    },
    200_000,
  );
});

describe("an audit", () => {
  const model = "sim";

  async function simulate(): Promise<Simulator> {
    const simulator = createSimulator({}, { model, seed: "42", speed: 200 });
    cleanups.push(() => simulator.close());
    await simulator.start();
    return simulator;
  }

  async function ingest({ server, backend }: Store, simulator: Simulator, auditIntervalMs = 300) {
    const events = (simulator.eventsEndpoint ?? "").replace("*", "127.0.0.1");
    const config = configSchema.parse({
      redis: { url: server.url },
      pools: [{ name: "p", model, endpoints: { static: [{ address: simulator.address, events }] } }],
      ingester: { heartbeatMs: 100, leaseTtlMs: 1_000, scrapeIntervalMs: 100, replayTimeoutMs: 500 },
      housekeeping: { auditIntervalMs, truthPath: "/sim/blocks" },
    });
    const metricsRegistry = createMetricsRegistry("ingester", { processMetrics: false });
    const ingester = createIngester({ ...backend, logger: silentLogger, metricsRegistry }, config, { instanceId: "i", admin: false });
    cleanups.push(() => ingester.close());
    await ingester.start();
    return metricsRegistry;
  }

  it("finds planted damage and has it repaired; what is right is left alone", async () => {
    const redis = await store();
    const { raw, backend } = redis;
    const simulator = await simulate();
    const metricsRegistry = await ingest(redis, simulator);
    const response = await fetch(`${simulator.url}/v1/completions`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ model, prompt: Array.from({ length: 200 }, (_, i) => i), max_tokens: 20 }),
    });
    expect(response.status).toBe(200);
    await response.text();
    await simulator.drained();
    const endpoint = simulator.address as EndpointId;
    const truth = new Map(Object.entries(simulator.blocks()[0]?.hashes ?? {}));
    expect(truth.size).toBeGreaterThan(10);

    const record = async () => (await backend.registry.endpoints()).find(({ id }) => id === endpoint);
    const indexed = async () => {
      const scope = (await record())?.meta.scope ?? ("none" as ScopeId);
      const copies = new Map<string, number>();
      for (let cursor: string | null = "0"; cursor !== null; ) {
        const slice = await backend.index.walk(scope, cursor, 1_000);
        for (const { key, holders } of slice.blocks) for (const holder of holders) if (holder.live) copies.set(key, holder.copies.gpu ?? 0);
        cursor = slice.next;
      }
      return copies;
    };
    await eventually(async () => expect(await indexed()).toEqual(truth));
    const audits = async () => Number(JSON.parse((await backend.housekeeping.progress()).get("audit") ?? "{}").compared ?? 0);
    await eventually(async () => expect(await audits()).toBeGreaterThan(10));
    const before = (await record())?.state.incarnation ?? 0;
    expect(await backend.housekeeping.rebuildRequests()).toEqual([]);

    // A block that the replica has never had, one copy too many, and an endpoint that counts in a scope of nobody's.
    const keys = createRedisKeys("kva");
    const scope = (await record())?.meta.scope ?? ("none" as ScopeId);
    const [known] = truth.keys();
    await raw.hset(keys.space(scopeTag(scope)).block(0, "00000000deadbeef" as BlockKey), endpoint, `${before}:gpu`);
    await raw.hset(keys.space(scopeTag(scope)).block(0, known as BlockKey), endpoint, `${before}:gpu*7`);
    const other = "other.b16" as ScopeId;
    await backend.registry.ensureScope(other, { model: "other", blockSizeTokens: 16, scheme: { kind: "content", seed: "" } });
    await raw.hset(keys.space(scopeTag(other)).seq(0), endpoint, "1:1:5", "10.9.9.9:1", "2:1:5");

    await eventually(async () => {
      expect((await record())?.state.incarnation).toBeGreaterThan(before);
      expect(await indexed()).toEqual(truth);
      expect(await raw.hlen(keys.space(scopeTag(other)).seq(0))).toBe(0);
      expect(await backend.housekeeping.rebuildRequests()).toEqual([]);
      const rebuilds = (await metricsRegistry.getSingleMetric("kvatlas_ingester_rebuilds_total")?.get())?.values ?? [];
      expect(rebuilds.map(({ value }) => value)).toEqual([1]);
    }, 40_000);
    const repaired = (await record())?.state.incarnation ?? 0;
    const [{ at }] = [JSON.parse((await backend.housekeeping.progress()).get("audit") ?? "{}")] as [{ readonly at: number }];
    // The audits that follow find nothing more.
    await eventually(async () => {
      const report = JSON.parse((await backend.housekeeping.progress()).get("audit") ?? "{}");
      expect(report.at).toBeGreaterThan(at + 1_500);
      expect(report.findings).toEqual({ stray: 0, incarnation: 0, phantom: 0, lost: 0, copies: 0 });
    }, 40_000);
    expect((await record())?.state.incarnation).toBe(repaired);
    expect((await backend.registry.endpoints()).map(({ id }) => id)).toEqual([endpoint]);
    await eventually(async () => expect(await metricsRegistry.metrics()).toContain('kvatlas_ingester_audit_findings{kind="phantom"} 0'));
  });
});
