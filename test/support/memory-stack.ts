import { createIngester } from "@kvatlas/ingester/app";
import { createRouter, type RouterDeps } from "@kvatlas/router/app";
import { createMemoryBackend } from "@kvatlas/shared/backend";
import { configSchema } from "@kvatlas/shared/config/schema";
import { silentLogger } from "@kvatlas/shared/logger";
import { createMetricsRegistry } from "@kvatlas/shared/metrics";
import type { EndpointRegistry } from "@kvatlas/shared/registry/endpoint-registry";
import type { Simulator } from "@kvatlas/simulator/app";
import { expect } from "vitest";

export interface MemoryStackOptions {
  readonly model: string;
  /** Settings of the pool beyond its name, model and endpoints. */
  readonly pool?: object;
  readonly router?: object;
  /** Settings of a replica's endpoint beyond its addresses; a replica has `dataParallelSize` endpoints. */
  readonly endpoint?: (simulator: Simulator) => { readonly dataParallelSize?: number; readonly role?: string };
  /** @defaultValue prompts are token ids */
  readonly createEncoder?: RouterDeps["createEncoder"];
  readonly routerId?: string;
}

export interface MemoryStack {
  /** Of the router. */
  readonly url: string;
  readonly adminUrl: string;
  readonly registry: EndpointRegistry;
}

/**
 * A whole ingester and a whole router for replicas that run, over real HTTP and ZMQ, with the index in the memory of this process. Resolves when all that
 * the replicas have published is in the index.
 *
 * @param closers what is to be closed at the end, the last one first
 */
export async function startMemoryStack(
  replicas: readonly Simulator[],
  { model, pool, router: routerSettings, endpoint = () => ({}), createEncoder = () => null, routerId }: MemoryStackOptions,
  closers: (() => Promise<unknown>)[],
): Promise<MemoryStack> {
  const endpoints = replicas.map((simulator) => ({
    address: simulator.address,
    events: simulator.eventsEndpoint,
    replay: simulator.replayEndpoint,
    ...endpoint(simulator),
  }));
  const config = configSchema.parse({
    pools: [{ name: "pool", model, endpoints: { static: endpoints }, ...pool }],
    router: { listen: "127.0.0.1:0", admin: "127.0.0.1:0", lookupTimeoutMs: 2_000, ...routerSettings },
    ingester: { admin: "127.0.0.1:0", scrapeIntervalMs: 50 },
  });
  const { index, registry } = createMemoryBackend();
  const deps = { index, registry, logger: silentLogger };
  const ingester = createIngester({ ...deps, metricsRegistry: createMetricsRegistry("ingester", { processMetrics: false }) }, config);
  await ingester.start();
  closers.push(() => ingester.close());
  const router = createRouter(
    { ...deps, metricsRegistry: createMetricsRegistry("router", { processMetrics: false }), createEncoder },
    config,
    routerId === undefined ? {} : { routerId },
  );
  await router.start();
  closers.push(() => router.close());
  const expected = config.pools.flatMap((one) => one.endpoints.static).reduce((sum, one) => sum + one.dataParallelSize, 0);
  await expect.poll(() => [...ingester.owned().values()].filter(({ isCaughtUp }) => isCaughtUp).length, { timeout: 20_000 }).toBe(expected);
  return { url: `http://${router.address}`, adminUrl: `http://${router.adminAddress}`, registry };
}
