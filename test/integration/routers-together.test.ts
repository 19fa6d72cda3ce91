import { createIngester } from "@kvatlas/ingester/app";
import { createRouter } from "@kvatlas/router/app";
import { type Backend, createRedisBackend } from "@kvatlas/shared/backend";
import { configSchema } from "@kvatlas/shared/config/schema";
import { silentLogger } from "@kvatlas/shared/logger";
import { createMetricsRegistry } from "@kvatlas/shared/metrics";
import type { EndpointId } from "@kvatlas/shared/types";
import { createSimulator, type Simulator } from "@kvatlas/simulator/app";
import { afterEach, describe, expect, it } from "vitest";
import { answerOk, startUpstream } from "../support/http-upstream.ts";
import { testRedisUrl, uniqueKeyPrefix } from "../support/redis.ts";
import { holdPrefix, promptOf, type Rig, rigModel, startRig } from "../support/router-rig.ts";

const closers: (() => Promise<unknown>)[] = [];

afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close();
});

function backendOf(keyPrefix: string, role: "request" | "background"): Backend {
  const { redis } = configSchema.parse({ redis: { url: testRedisUrl(), keyPrefix, commandTimeoutMs: 5_000 } });
  const backend = createRedisBackend(redis, role, silentLogger);
  closers.push(() => backend.close());
  return backend;
}

interface Answer {
  readonly endpoint: string | null;
  readonly cached: number;
}

async function complete(url: string, prompt: readonly number[], body: object = {}): Promise<Answer> {
  const response = await fetch(`${url}/v1/completions`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ model: rigModel, prompt, ...body }),
  });
  expect(response.status).toBe(200);
  const answer = (await response.json()) as { usage?: { prompt_tokens_details?: { cached_tokens: number } | null } };
  return {
    endpoint: response.headers.get("x-kvatlas-endpoint"),
    cached: answer.usage?.prompt_tokens_details?.cached_tokens ?? 0,
  };
}

describe("eight routers", () => {
  async function fleetOf(
    count: number,
  ): Promise<{ readonly rigs: readonly Rig[]; readonly endpoints: readonly string[]; readonly registry: Backend["registry"] }> {
    const endpoints: string[] = [];
    for (let i = 0; i < 4; i++) {
      const upstream = await startUpstream(answerOk);
      closers.push(() => upstream.kill());
      endpoints.push(upstream.address);
    }
    const prefix = uniqueKeyPrefix();
    const writing = backendOf(prefix, "background");
    for (const [i, endpoint] of endpoints.entries()) await holdPrefix(writing, endpoint, promptOf(1_600, 1), 20 * (i + 1));
    const rigs: Rig[] = [];
    for (let i = 0; i < count; i++) {
      const rig = await startRig({
        endpoints,
        routerId: `r${i}`,
        backend: backendOf(prefix, "request"),
        router: { lookupTimeoutMs: 5_000 },
      });
      closers.push(() => rig.router.close());
      rigs.push(rig);
    }
    return { rigs, endpoints, registry: writing.registry };
  }

  it("rank alike at the same moment, whatever each of them has under way", { timeout: 60_000 }, async () => {
    const { rigs, endpoints, registry } = await fleetOf(8);
    const load = {
      waiting: 0,
      running: 1,
      kvUsage: 0.5,
      maxTokens: null,
      runningLoras: [],
      waitingLoras: [],
      sleeping: false,
      at: Date.now(),
    };
    await registry.setLoad(new Map(endpoints.map((endpoint, i) => [endpoint as EndpointId, { ...load, waiting: i }])));
    // Leaves history and marks of different routers behind.
    await Promise.all(rigs.map((rig, i) => complete(rig.url, promptOf(800, 10 + i))));
    const rankings = async (prompt: readonly number[]) =>
      Promise.all(
        rigs.map(async (rig) => {
          const response = await fetch(`${rig.url}/kvatlas/v1/route`, {
            method: "POST",
            body: JSON.stringify({ model: rigModel, token_ids: prompt }),
          });
          const { mode, scores } = (await response.json()) as { mode: string; scores: { endpoint: string; score: number }[] };
          return { mode, order: scores.map(({ endpoint, score }) => [endpoint, score]) };
        }),
      );
    for (const prompt of [promptOf(1_600, 1), promptOf(800, 12), promptOf(320, 77)]) {
      // What is under way fades out of the shared ledger at its own pace.
      await expect
        .poll(async () => new Set((await rankings(prompt)).map((ranking) => JSON.stringify(ranking))).size, { timeout: 10_000 })
        .toBe(1);
      const [first] = await rankings(prompt);
      expect(first?.mode).toBe("precise");
      expect(first?.order.length).toBe(endpoints.length);
    }
  });

  it("spread cold prompts as one does", { timeout: 60_000 }, async () => {
    const { rigs } = await fleetOf(8);
    const counts = new Map<string | null, number>();
    for (let i = 0; i < 160; i += 8) {
      const answers = await Promise.all(rigs.map((rig, r) => complete(rig.url, promptOf(320, 100 + i + r))));
      for (const { endpoint } of answers) counts.set(endpoint, (counts.get(endpoint) ?? 0) + 1);
    }
    expect(counts.size).toBe(4);
    for (const count of counts.values()) expect(count).toBeLessThan(0.6 * 160);
  });
});

describe("a burst of siblings", () => {
  it("through two routers at once computes its common beginning on few replicas, and the others hit", { timeout: 60_000 }, async () => {
    const simulators: Simulator[] = [];
    for (let i = 0; i < 4; i++) {
      const simulator = createSimulator({}, { model: rigModel, seed: "0", hashAlgorithm: "sha256_cbor" });
      await simulator.start();
      closers.push(() => simulator.close());
      simulators.push(simulator);
    }
    const config = configSchema.parse({
      pools: [
        {
          name: "pool",
          model: rigModel,
          endpoints: {
            static: simulators.map(({ address, eventsEndpoint, replayEndpoint }) => ({
              address,
              events: eventsEndpoint,
              replay: replayEndpoint,
            })),
          },
        },
      ],
      router: { listen: "127.0.0.1:0", admin: "127.0.0.1:0", lookupTimeoutMs: 5_000 },
      ingester: { admin: "127.0.0.1:0", scrapeIntervalMs: 50 },
    });
    const prefix = uniqueKeyPrefix();
    const common = (service: string) => ({
      logger: silentLogger,
      metricsRegistry: createMetricsRegistry(service, { processMetrics: false }),
    });
    const ingester = createIngester({ ...backendOf(prefix, "background"), ...common("ingester") }, config);
    await ingester.start();
    closers.push(() => ingester.close());
    const routers = await Promise.all(
      [0, 1].map(async () => {
        const router = createRouter({ ...backendOf(prefix, "request"), ...common("router"), createEncoder: () => null }, config);
        await router.start();
        closers.push(() => router.close());
        return `http://${router.address}`;
      }),
    );
    await expect.poll(() => [...ingester.owned().values()].filter(({ isCaughtUp }) => isCaughtUp).length, { timeout: 20_000 }).toBe(4);
    const short = { max_tokens: 4, ignore_eos: true };
    for (const { address } of simulators) await complete(`http://${address}`, promptOf(64, 900), short);
    for (const url of routers) {
      await expect
        .poll(
          async () => {
            const { endpoints } = (await (await fetch(`${url}/kvatlas/v1/endpoints`)).json()) as { endpoints: { scope: string | null }[] };
            return endpoints.filter(({ scope }) => scope !== null).length;
          },
          { timeout: 20_000 },
        )
        .toBe(4);
    }
    // Worth more than any difference in load that 20 requests make.
    const beginning = promptOf(12_800, 1);
    const answers = await Promise.all(
      Array.from({ length: 20 }, (_, i) => complete(routers[i % 2] ?? "", [...beginning, ...promptOf(64, 100 + i)], short)),
    );
    expect(new Set(answers.map(({ endpoint }) => endpoint)).size).toBeLessThanOrEqual(3);
    expect(answers.filter(({ cached }) => cached >= 0.9 * beginning.length).length).toBeGreaterThanOrEqual(17);
  });
});
