import { FleetView } from "@kvatlas/router/fleet/fleet-view";
import { createRedisBackend } from "@kvatlas/shared/backend";
import { type Clock, systemClock } from "@kvatlas/shared/clock";
import { configSchema } from "@kvatlas/shared/config/schema";
import { silentLogger } from "@kvatlas/shared/logger";
import type { BlockKey, EndpointId, ScopeId } from "@kvatlas/shared/types";
import { describe, expect, it, onTestFinished } from "vitest";
import { eventually } from "../support/eventually.ts";
import { IngestBed } from "../support/ingest-bed.ts";
import { poolOf, testConfig } from "../support/ingest-rig.ts";
import { pausable } from "../support/pausable-store.ts";
import { testRedisUrl, uniqueKeyPrefix } from "../support/redis.ts";

/* Machines whose clocks differ by an hour share one Redis: nobody looks dead for it, and nobody alive. */

const hourMs = 3_600_000;

describe.each([-1, 1])("an ingester whose clock is off by %i h", (hours) => {
  const skewed: Clock = { now: () => systemClock.now() + hours * hourMs, monotonic: () => systemClock.monotonic() };

  it("is alive for others while it lives, its endpoints are ready and their load is fresh, and no longer", async () => {
    const { redis } = configSchema.parse({ redis: { url: testRedisUrl(), keyPrefix: uniqueKeyPrefix() } });
    const [there, here] = [skewed, systemClock].map((clock) => createRedisBackend(redis, "background", silentLogger, { clock }));
    if (there === undefined || here === undefined) throw new Error("two machines");
    onTestFinished(async () => void (await Promise.all([there.close(), here.close()])));
    const reached = pausable(there);
    const bed = new IngestBed(reached);
    onTestFinished(() => bed.close());
    bed.onClose(async () => reached.resume());
    const engine = await bed.engine({ "/metrics": "vllm:num_requests_running 1\nvllm:num_requests_waiting 2\n" });
    const pool = poolOf([{ address: engine.address, publisher: await bed.publisher() }]);
    const view = new FleetView(
      { registry: here.registry, clock: systemClock, logger: silentLogger },
      { routerId: "router", pools: testConfig([pool]).pools, endpointTtlMs: 1_000, pollIntervalMs: 50 },
    );
    onTestFinished(() => view.close());
    await view.start();
    const status = () => view.snapshot.pools[0]?.endpoints[0]?.status;
    const isSeen = async (others: readonly string[]) =>
      expect(await here.registry.instances("ingester", systemClock.now(), 1_000)).toEqual(others);
    const loadAgeMs = async () => {
      const [load] = (await here.registry.readLoad([])).loads.values();
      return Math.abs(systemClock.now() - (load?.at ?? 0));
    };

    const { ingester } = await bed.ingester([pool], {}, "off", { clock: skewed });
    await eventually(() => expect(status()).toBe("ready"));
    await eventually(() => isSeen(["off"]));
    // What it sees of others is right, too.
    await eventually(async () => {
      await here.registry.beat("ingester", "right", systemClock.now());
      expect(await there.registry.instances("ingester", skewed.now(), 60_000)).toEqual(["off", "right"]);
    });
    await eventually(async () => expect(await loadAgeMs()).toBeLessThan(hourMs / 6));
    expect([...ingester.owned().keys()]).toEqual([engine.address]);

    reached.pause();
    await eventually(() => expect(status()).toBe("silent"));
    await eventually(() => isSeen([]));
  });

  it("and routers with such clocks know what the others have sent where, and when", async () => {
    const { redis } = configSchema.parse({ redis: { url: testRedisUrl(), keyPrefix: uniqueKeyPrefix() } });
    const clocks = [skewed, systemClock];
    const backends = clocks.map((clock) => createRedisBackend(redis, "background", silentLogger, { clock }));
    onTestFinished(async () => void (await Promise.all(backends.map((backend) => backend.close()))));
    for (const [i, { registry }] of backends.entries()) {
      // As every router does once a second: it is how the time of Redis is learned.
      await eventually(async () => {
        await registry.beat("router", `r-${i}`, clocks[i]?.now() ?? 0);
        const routers = await registry.instances("router", clocks[i]?.now() ?? 0, 10_000);
        expect(routers).toHaveLength(i + 1);
      });
    }
    for (const [i, { history }] of backends.entries()) {
      const clock = clocks[i] ?? systemClock;
      const other = { history: backends[1 - i]?.history ?? history, clock: clocks[1 - i] ?? clock };
      const chain = { scope: "scope" as ScopeId, keys: [`000000000000000${i}` as BlockKey] };
      const endpoint = "10.0.0.1:8000" as EndpointId;
      const routing = { chain, endpoint, at: clock.now() };
      await history.record([routing], 60_000);
      const recent = { sinceMs: other.clock.now() - 3_000, form: "whole" } as const;
      const [found] = await other.history.lookup([chain], recent);
      expect(Math.abs((found?.get(endpoint)?.at ?? 0) - other.clock.now())).toBeLessThan(3_000);
      expect(await other.history.lookup([chain], { ...recent, sinceMs: other.clock.now() + 3_000 })).toEqual([new Map()]);
      await history.withdraw([routing]);
      expect(await other.history.lookup([chain], recent)).toEqual([new Map()]);
    }
  });
});
