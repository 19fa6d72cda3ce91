import { createIngester } from "@kvatlas/ingester/app";
import { createRedisBackend } from "@kvatlas/shared/backend";
import { configSchema } from "@kvatlas/shared/config/schema";
import { createRedisKeys, scopeTag } from "@kvatlas/shared/index/redis-keys";
import { silentLogger } from "@kvatlas/shared/logger";
import { createMetricsRegistry } from "@kvatlas/shared/metrics";
import type { BlockKey, ScopeId } from "@kvatlas/shared/types";
import { createSimulator, type Simulator } from "@kvatlas/simulator/app";
import { Redis } from "ioredis";
import { afterEach, describe, expect, it } from "vitest";
import { eventually } from "../support/eventually.ts";
import { startRedisServer } from "../support/redis-server.ts";
import { startKvatlas } from "../support/services.ts";

const model = "sim";
const cleanups: (() => Promise<unknown>)[] = [];

afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

async function simulate(tokens: readonly number[]): Promise<Simulator> {
  const simulator = createSimulator({}, { model, seed: "42", speed: 200 });
  cleanups.push(() => simulator.close());
  await simulator.start();
  const response = await fetch(`${simulator.url}/v1/completions`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ model, prompt: tokens, max_tokens: 2 }),
  });
  expect(response.status).toBe(200);
  await response.text();
  await simulator.drained();
  return simulator;
}

describe("kvatlas inspect", () => {
  it("diff finds what the index has wrong, stats says how much there is and how far it is", async () => {
    const server = await startRedisServer();
    cleanups.push(() => server.stop());
    const raw = new Redis(server.url);
    cleanups.push(async () => raw.disconnect());
    const prompt = (start: number) => Array.from({ length: 160 }, (_, i) => start + i);
    const started = await Promise.all([simulate(prompt(0)), simulate(prompt(1_000))]);
    // In the order in which inspect lists them.
    const simulators = started.toSorted((a, b) => (String(a.address) < String(b.address) ? -1 : 1));
    const [first, second] = simulators.map(({ address }) => address);
    const config = configSchema.parse({
      redis: { url: server.url },
      pools: [
        {
          name: "p",
          model,
          endpoints: {
            static: simulators.map(({ address, eventsEndpoint }) => ({
              address,
              events: (eventsEndpoint ?? "").replace("*", "127.0.0.1"),
            })),
          },
        },
      ],
      ingester: { heartbeatMs: 100, leaseTtlMs: 1_000, scrapeIntervalMs: 100, replayTimeoutMs: 500 },
    });
    const backend = createRedisBackend(config.redis, "background", silentLogger);
    cleanups.push(() => backend.close());
    const metricsRegistry = createMetricsRegistry("ingester", { processMetrics: false });
    const ingester = createIngester({ ...backend, logger: silentLogger, metricsRegistry }, config, { instanceId: "i", admin: false });
    cleanups.push(() => ingester.close());
    await ingester.start();
    await eventually(async () => expect((await backend.index.census(10_000)).total).toBeGreaterThan(20));
    await eventually(() => expect([...ingester.owned().values()]).toEqual([{ isCaughtUp: true }, { isCaughtUp: true }]));

    const inspect = async (kind: string) => {
      const command = startKvatlas(["inspect", kind, "--json"], { KVATLAS_REDIS_URL: server.url });
      cleanups.push(() => command.stop());
      const { code } = await command.ended;
      return { code, ...JSON.parse(command.stdout || `{"stderr": ${JSON.stringify(command.stderr)}}`) };
    };
    const equal = { medium: "gpu", held: 10, indexed: 10, phantom: 0, lost: 0, copies: 0, moving: 0, behind: 0 };
    await eventually(async () => {
      const found = await inspect("diff");
      expect(found).toMatchObject({ code: 0, equal: true, isComplete: true, silent: [] });
      expect(found.replicas).toEqual([first, second].map((endpoint) => expect.objectContaining({ endpoint, ...equal })));
    });

    const scope = (await backend.registry.endpoints())[0]?.meta.scope ?? ("none" as ScopeId);
    const { incarnation } = await backend.registry.state(
      (await backend.registry.endpoints()).find(({ id }) => id === first)?.id ?? ("" as never),
    );
    const keys = createRedisKeys("kva");
    const held = Object.keys(simulators[0]?.blocks()[0]?.hashes ?? {}) as BlockKey[];
    await raw.hset(keys.space(scopeTag(scope)).block(0, "00000000deadbeef" as BlockKey), first ?? "", `${incarnation}:gpu`);
    await raw.hset(keys.space(scopeTag(scope)).block(0, held[0] as BlockKey), first ?? "", `${incarnation}:gpu*3`);
    await raw.hdel(keys.space(scopeTag(scope)).block(0, held[1] as BlockKey), first ?? "");
    const found = await inspect("diff");
    expect(found).toMatchObject({ code: 1, equal: false });
    expect(found.replicas).toEqual([
      expect.objectContaining({
        ...equal,
        endpoint: first,
        phantom: 1,
        lost: 1,
        copies: 1,
        examples: ["00000000deadbeef", held[1], held[0]],
      }),
      expect.objectContaining({ ...equal, endpoint: second }),
    ]);

    const stats = await inspect("stats");
    expect(stats).toMatchObject({ code: 0, endpoints: 2, census: { isExact: true } });
    expect(stats.scopes).toHaveLength(1);
    expect(stats.scopes[0]).toMatchObject({ scope, blocks: 20, entries: 20, deadEntries: 0, bytes: expect.any(Number) });
    for (const holder of stats.scopes[0].holders)
      expect(holder).toMatchObject({ live: 10, applied: expect.any(Number), newestBatchAgeMs: expect.any(Number) });
  });
});
