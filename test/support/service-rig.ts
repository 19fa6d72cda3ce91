import { createIngester, type Ingester } from "@kvatlas/ingester/app";
import { createRouter } from "@kvatlas/router/app";
import { type Backend, createRedisBackend } from "@kvatlas/shared/backend";
import { configSchema } from "@kvatlas/shared/config/schema";
import { silentLogger } from "@kvatlas/shared/logger";
import { createMetricsRegistry } from "@kvatlas/shared/metrics";
import { createRedisMetrics } from "@kvatlas/shared/redis-metrics";
import type { EndpointId, ScopeId } from "@kvatlas/shared/types";
import { createSimulator, type Simulator } from "@kvatlas/simulator/app";
import { expect } from "vitest";
import { eventually } from "./eventually.ts";

type ConfigInput = (typeof configSchema)["_zod"]["input"];
type Service = "ingester" | "router";

export interface ServiceRigOptions {
  /** How each of the two reaches Redis. */
  readonly redis: Readonly<Record<Service, NonNullable<ConfigInput["redis"]>>>;
  readonly housekeeping?: ConfigInput["housekeeping"];
}

/** A simulated replica, a whole ingester and a whole router that meet in Redis, each with a connection of its own as in a process of its own. */
export interface ServiceRig {
  readonly simulator: Simulator;
  readonly ingester: Ingester;
  /** The ingester's. */
  readonly backend: Backend;
  readonly endpoint: EndpointId;
  /** Asks for a completion through the router; the same seed is the same prompt of 20 blocks. */
  ask(seed: number): Promise<{ readonly status: number; readonly mode: string | null }>;
  /** Makes the replica compute and publish without the router. */
  warm(seed: number): Promise<void>;
  /** Blocks that count in the index, with their copies. */
  indexed(): Promise<ReadonlyMap<string, number>>;
  /** Waits until the index holds exactly what the replica holds, and the router finds it there. */
  settled(seed: number): Promise<void>;
  /** Value of a metric of one service, summed over the label sets that match. */
  metric(service: Service, name: string, labels?: Readonly<Record<string, string>>): Promise<number>;
  stop(): Promise<void>;
}

const model = "sim";
const promptTokens = 320;

export async function startServiceRig({ redis, housekeeping = {} }: ServiceRigOptions): Promise<ServiceRig> {
  const closers: (() => Promise<unknown>)[] = [];
  const stop = async (): Promise<void> => {
    for (const close of closers.splice(0).reverse()) await close();
  };
  try {
    const simulator = createSimulator({}, { model, seed: "42", speed: 200 });
    await simulator.start();
    closers.push(() => simulator.close());
    const configFor = (service: Service) =>
      configSchema.parse({
        redis: { commandTimeoutMs: 1_000, ...redis[service] },
        pools: [
          {
            name: "p",
            model,
            endpoints: {
              static: [
                {
                  address: simulator.address,
                  events: simulator.eventsEndpoint?.replace("*", "127.0.0.1"),
                  replay: simulator.replayEndpoint?.replace("*", "127.0.0.1"),
                },
              ],
            },
          },
        ],
        router: { listen: "127.0.0.1:0", admin: "127.0.0.1:0", lookupTimeoutMs: 2_000 },
        ingester: { heartbeatMs: 100, leaseTtlMs: 2_000, scrapeIntervalMs: 100, replayTimeoutMs: 500 },
        housekeeping: { purgeIntervalMs: 500, auditIntervalMs: 500, truthPath: "/sim/blocks", ...housekeeping },
      });
    const registries = {
      ingester: createMetricsRegistry("ingester", { processMetrics: false }),
      router: createMetricsRegistry("router", { processMetrics: false }),
    };
    const open = (service: Service): Backend => {
      const onRedisError = createRedisMetrics(registries[service]).error;
      const role = service === "router" ? "request" : "background";
      const backend = createRedisBackend(configFor(service).redis, role, silentLogger, { onRedisError });
      closers.push(() => backend.close());
      return backend;
    };
    const backend = open("ingester");
    const ingester = createIngester({ ...backend, logger: silentLogger, metricsRegistry: registries.ingester }, configFor("ingester"), {
      instanceId: "i0",
      admin: false,
    });
    await ingester.start();
    closers.push(() => ingester.close());
    const { index, registry } = open("router");
    const router = createRouter(
      { index, registry, logger: silentLogger, metricsRegistry: registries.router, createEncoder: () => null },
      configFor("router"),
      { routerId: "r0" },
    );
    await router.start();
    closers.push(() => router.close());

    const endpoint = simulator.address as EndpointId;
    const post = (url: string, seed: number): Promise<Response> =>
      fetch(`${url}/v1/completions`, {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: JSON.stringify({ model, prompt: Array.from({ length: promptTokens }, (_, i) => (seed * 1_000 + i) % 50_000), max_tokens: 2 }),
      });
    const ask = async (seed: number) => {
      const response = await post(`http://${router.address}`, seed);
      await response.arrayBuffer();
      return { status: response.status, mode: response.headers.get("x-kvatlas-mode") };
    };
    const indexed = async (): Promise<ReadonlyMap<string, number>> => {
      const scope = (await backend.registry.endpoints()).find(({ id }) => id === endpoint)?.meta.scope ?? ("none" as ScopeId);
      const copies = new Map<string, number>();
      for (let cursor: string | null = "0"; cursor !== null; ) {
        const slice = await backend.index.walk(scope, cursor, 1_000);
        for (const { key, holders } of slice.blocks) for (const holder of holders) if (holder.live) copies.set(key, holder.copies.gpu ?? 0);
        cursor = slice.next;
      }
      return copies;
    };
    return {
      simulator,
      ingester,
      backend,
      endpoint,
      ask,
      warm: async (seed) => {
        const response = await post(simulator.url, seed);
        expect(response.status).toBe(200);
        await response.arrayBuffer();
        await simulator.drained();
      },
      indexed,
      settled: (seed) =>
        eventually(async () => {
          expect(await ask(seed)).toEqual({ status: 200, mode: "precise" });
          await simulator.drained();
          const truth = new Map(Object.entries(simulator.blocks()[0]?.hashes ?? {}));
          expect(truth.size).toBeGreaterThanOrEqual(promptTokens / 16);
          expect(await indexed()).toEqual(truth);
          expect(ingester.readiness()).toEqual([]);
        }, 40_000),
      metric: async (service, name, labels = {}) => {
        const values = (await registries[service].getSingleMetric(name)?.get())?.values ?? [];
        return values
          .filter((value) => Object.entries(labels).every(([label, wanted]) => value.labels[label] === wanted))
          .reduce((sum, { value }) => sum + value, 0);
      },
      stop,
    };
  } catch (error) {
    await stop();
    throw error;
  }
}
