import { createIngester } from "@kvatlas/ingester/app";
import { createRedisBackend } from "@kvatlas/shared/backend";
import { configSchema } from "@kvatlas/shared/config/schema";
import { chainOf } from "@kvatlas/shared/index/block-index.contract";
import { silentLogger } from "@kvatlas/shared/logger";
import { createMetricsRegistry } from "@kvatlas/shared/metrics";
import { SLOTS, slotOf } from "@kvatlas/shared/redis-slots";
import type { EndpointId } from "@kvatlas/shared/types";
import { Redis } from "ioredis";
import { describe, expect, it, onTestFinished } from "vitest";
import { eventually, eventuallyTrue } from "../support/eventually.ts";
import { startRedisCluster } from "../support/redis-cluster.ts";
import { startRedisSentinels } from "../support/redis-sentinel.ts";
import { startRedisServer } from "../support/redis-server.ts";
import { type ServiceRigOptions, startServiceRig } from "../support/service-rig.ts";

const jobs = ["audit", "forget-departed", "purge"] as const;

interface Topology {
  readonly redis: ServiceRigOptions["redis"]["ingester"];
  /** Kills a primary, and waits until its replica is one. */
  failOver(): Promise<void>;
  stop(): Promise<void>;
}

async function sentinel(): Promise<Topology> {
  const sentinels = await startRedisSentinels();
  return {
    redis: { sentinel: { name: sentinels.name, nodes: [...sentinels.nodes] } },
    failOver: async () => {
      await sentinels.primary.stop();
      await sentinels.named(sentinels.replica.port);
    },
    stop: () => sentinels.stop(),
  };
}

async function cluster(): Promise<Topology> {
  const nodes = await startRedisCluster({ withReplicas: true });
  return {
    redis: { cluster: [...nodes.nodes] },
    failOver: async () => {
      // That of the job queue.
      const primary = Math.floor((slotOf("bull:{kva}:housekeeping") * nodes.nodes.length) / SLOTS);
      await nodes.node(primary).stop();
      await eventuallyTrue(async () => (await nodes.client(nodes.nodes.length + primary).info("replication")).includes("role:master"));
    },
    stop: () => nodes.stop(),
  };
}

describe("housekeeping after a failover", () => {
  it.each([
    ["behind Sentinel", sentinel],
    ["in a cluster", cluster],
  ])("%s goes on: replicas that have left are forgotten, their blocks purged, the index audited", async (_, start) => {
    const topology = await start();
    onTestFinished(() => topology.stop());
    const rig = await startServiceRig({
      redis: { ingester: topology.redis, router: topology.redis },
      housekeeping: { departedAfterMs: 2_000, purgeBlocksPerSecond: 100_000 },
    });
    onTestFinished(() => rig.stop());
    const { index, registry, housekeeping } = rig.backend;
    const runs = () =>
      Promise.all(jobs.map((job) => rig.metric("ingester", "kvatlas_ingester_housekeeping_jobs_total", { job, outcome: "ok" })));
    await rig.settled(1);
    await eventually(async () => expect(Math.min(...(await runs()))).toBeGreaterThan(0));
    await topology.failOver();

    const departed = "10.9.9.9:1" as EndpointId;
    const scope = await eventually(async () => {
      const { meta } = (await registry.endpoints()).find(({ id }) => id === rig.endpoint) ?? { meta: null };
      if (meta?.scope == null) throw new Error("not described yet");
      const lease = await registry.acquire(departed, "gone", 300);
      if (lease === null) throw new Error("the lease of an attempt before has not ended");
      await registry.describe(lease, { ...meta, address: departed }, Date.now());
      const incarnation = (await registry.startIncarnation(lease, 0)) ?? 0;
      const writer = await index.openWriter({ scope: meta.scope, endpoint: departed, incarnation, from: 0, fence: lease.fence });
      await writer.apply([{ seq: 0, ops: [{ op: "store", medium: "gpu", group: 0, keys: chainOf(7, 500) }] }]);
      return meta.scope;
    });
    const before = await runs();
    const failedOverAt = Date.now();
    await eventually(async () => {
      expect((await registry.endpoints()).map(({ id }) => id)).toEqual([rig.endpoint]);
      const counted = (await index.census(1_000_000)).scopes.get(scope);
      expect([...(counted?.holders.keys() ?? [])]).toEqual([rig.endpoint]);
      for (const [i, count] of (await runs()).entries()) expect(count).toBeGreaterThan(before[i] ?? 0);
      const report = JSON.parse((await housekeeping.progress()).get("audit") ?? "{}") as { readonly at?: number };
      expect(report.at).toBeGreaterThan(failedOverAt);
    }, 40_000);
    await rig.settled(2);
  });
});

describe("the schedule of housekeeping", () => {
  it("is one for three ingesters, and comes back after FLUSHALL", async () => {
    const server = await startRedisServer();
    onTestFinished(() => server.stop());
    const raw = new Redis(server.url);
    onTestFinished(() => raw.disconnect());
    const config = configSchema.parse({
      redis: { url: server.url },
      ingester: { heartbeatMs: 100, leaseTtlMs: 1_000 },
      housekeeping: { purgeIntervalMs: 300, auditIntervalMs: 300 },
    });
    const registries = ["one", "two", "three"].map((instanceId) => {
      const metricsRegistry = createMetricsRegistry("ingester", { processMetrics: false });
      const backend = createRedisBackend(config.redis, "background", silentLogger);
      const ingester = createIngester({ ...backend, logger: silentLogger, metricsRegistry }, config, { instanceId, admin: false });
      onTestFinished(async () => {
        await ingester.close();
        await backend.close();
      });
      return { metricsRegistry, started: ingester.start() };
    });
    await Promise.all(registries.map(({ started }) => started));
    const purges = async () => {
      const counters = registries.map(({ metricsRegistry }) => metricsRegistry.getSingleMetric("kvatlas_ingester_housekeeping_jobs_total"));
      const values = (await Promise.all(counters.map((counter) => counter?.get()))).flatMap((metric) => metric?.values ?? []);
      return values.filter(({ labels }) => labels.job === "purge" && labels.outcome === "ok").reduce((sum, { value }) => sum + value, 0);
    };
    const schedule = async () => (await raw.zrange("bull:{kva}:housekeeping:repeat", "0", "-1")).sort();
    await eventually(async () => expect(await purges()).toBeGreaterThan(3));
    expect(await schedule()).toEqual([...jobs]);
    expect(await raw.hget("bull:{kva}:housekeeping:meta", "concurrency")).toBe("1");
    // One of each is waiting for its time or running, however many ingesters there are.
    const pending = async () => {
      const key = (list: string) => `bull:{kva}:housekeeping:${list}`;
      const [delayed, waiting, active] = await Promise.all([
        raw.zrange(key("delayed"), "0", "-1"),
        raw.lrange(key("wait"), 0, -1),
        raw.lrange(key("active"), 0, -1),
      ]);
      return [...delayed, ...waiting, ...active].filter((id) => id.startsWith("repeat:")).length;
    };
    await eventually(async () => expect(await pending()).toBe(jobs.length));

    await raw.flushall();
    expect(await schedule()).toEqual([]);
    const before = await purges();
    await eventually(async () => {
      expect(await schedule()).toEqual([...jobs]);
      expect(await purges()).toBeGreaterThan(before + 2);
    }, 40_000);
    expect(await raw.hget("bull:{kva}:housekeeping:meta", "concurrency")).toBe("1");
  });
});
