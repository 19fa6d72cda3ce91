import { writeFile } from "node:fs/promises";
import { inspectCommand } from "@kvatlas/cli/commands/inspect";
import { createIngester, type Ingester } from "@kvatlas/ingester/app";
import { openKubeAccess } from "@kvatlas/ingester/discovery/kubernetes/kube-access";
import { createRouter, type Router } from "@kvatlas/router/app";
import { type Backend, createMemoryBackend, createRedisBackend } from "@kvatlas/shared/backend";
import { configSchema } from "@kvatlas/shared/config/schema";
import { silentLogger } from "@kvatlas/shared/logger";
import { createMetricsRegistry } from "@kvatlas/shared/metrics";
import { createSimulator, type Simulator } from "@kvatlas/simulator/app";
import { afterEach, beforeAll, describe, expect, it } from "vitest";
import { eventually } from "../support/eventually.ts";
import { freePortRange } from "../support/free-ports.ts";
import { inferencePool, KubeApiServer, pod, podsResource, poolResource } from "../support/kube-api-server.ts";
import { testRedisUrl, uniqueKeyPrefix } from "../support/redis.ts";
import { runInProcess } from "../support/run-command.ts";

type PodSettings = NonNullable<NonNullable<(typeof configSchema)["_zod"]["input"]["pools"]>[number]["endpoints"]>["kubernetes"];

const model = "sim";
const modelsResource = "inference.networking.x-k8s.io/v1alpha2/inferencemodels";
const closers: (() => Promise<unknown>)[] = [];

// The client's library is large: on a busy machine loading it takes longer than what is waited for below.
beforeAll(async () => {
  const api = new KubeApiServer();
  await api.start();
  await openKubeAccess({ kubeconfig: (await api.kubeconfig()).path, context: null });
  await api.close();
}, 120_000);
afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close();
});

async function startApi(): Promise<KubeApiServer> {
  const api = new KubeApiServer([poolResource, modelsResource]);
  await api.start();
  closers.push(() => api.close());
  return api;
}

interface Fleet {
  readonly httpPort: number;
  readonly configFile: string;
  readonly url: string;
  readonly readyz: () => Promise<string>;
  readonly ingesters: readonly Ingester[];
  readonly router: Router;
  /** @param dials - the ingester that it publishes to; else it binds, as the pods' settings say */
  simulator(ip: string, dials?: string): Promise<Simulator>;
  backend(): Backend;
}

/** Ingesters and a router that know replicas by the API server alone. */
async function startFleet(
  api: KubeApiServer,
  pods: (ports: { http: number; events: number; replay: number }) => PodSettings,
  ingesterCount = 1,
  redis = {},
  ingester = {},
): Promise<Fleet> {
  const http = await freePortRange(3);
  const ports = { http, events: http + 1, replay: http + 2 };
  const { path } = await api.kubeconfig();
  const config = configSchema.parse({
    redis,
    kubernetes: { kubeconfig: path },
    pools: [{ name: "p", model, endpoints: { kubernetes: pods(ports) }, prefixCache: { hashSeed: "42" } }],
    router: { listen: "127.0.0.1:0", admin: "127.0.0.1:0", lookupTimeoutMs: 2_000 },
    ingester: { heartbeatMs: 100, leaseTtlMs: 600, scrapeIntervalMs: 50, ...ingester },
  });
  const memory = createMemoryBackend();
  const backend = (): Backend => {
    if (config.redis.url === null) return memory;
    const opened = createRedisBackend(config.redis, "background", silentLogger);
    closers.push(() => opened.close());
    return opened;
  };
  const ingesters = Array.from({ length: ingesterCount }, (_, i) =>
    createIngester(
      { ...backend(), logger: silentLogger, metricsRegistry: createMetricsRegistry("ingester", { processMetrics: false }) },
      config,
      { instanceId: `i${i}`, admin: false },
    ),
  );
  for (const ingester of ingesters) {
    await ingester.start();
    closers.push(() => ingester.close());
  }
  const router = createRouter(
    {
      ...backend(),
      logger: silentLogger,
      metricsRegistry: createMetricsRegistry("router", { processMetrics: false }),
      createEncoder: () => null,
    },
    config,
  );
  await router.start();
  closers.push(() => router.close());
  const configFile = `${path}.kvatlas.json`;
  await writeFile(configFile, JSON.stringify(config));
  return {
    httpPort: http,
    configFile,
    url: `http://${router.address}`,
    readyz: async () => (await fetch(`http://${router.adminAddress}/readyz`)).text(),
    ingesters,
    router,
    backend,
    simulator: async (ip, dials) => {
      const simulator = createSimulator(
        {},
        {
          model,
          seed: "42",
          speed: 200,
          listen: `${ip}:${http}`,
          kvEventsEndpoint: dials ?? `tcp://${ip}:${ports.events}`,
          ...(dials === undefined ? {} : { topic: null }),
          replayEndpoint: `tcp://${ip}:${ports.replay}`,
        },
      );
      await simulator.start();
      closers.push(() => simulator.close());
      return simulator;
    },
  };
}

const prompt = (seed: number): number[] => Array.from({ length: 320 }, (_, i) => seed * 1_000 + i);

async function ask(
  fleet: Fleet,
  seed: number,
  asked = model,
): Promise<{ readonly status: number; readonly endpoint: string | null; readonly matched: number; readonly mode: string | null }> {
  const response = await fetch(`${fleet.url}/v1/completions`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ model: asked, prompt: prompt(seed), max_tokens: 2 }),
  });
  await response.text();
  const { headers, status } = response;
  return {
    status,
    endpoint: headers.get("x-kvatlas-endpoint"),
    matched: Number(headers.get("x-kvatlas-matched-tokens")),
    mode: headers.get("x-kvatlas-mode"),
  };
}

/** `kvatlas inspect pools`, for programs and for people. */
async function inspectPools(fleet: Fleet): Promise<{ readonly json: unknown; readonly text: string }> {
  const argv = ["pools", "--config", fleet.configFile];
  const [json, text] = [await runInProcess(inspectCommand, [...argv, "--json"]), await runInProcess(inspectCommand, argv)];
  expect([json.code, text.code, text.stderr]).toEqual([0, 0, ""]);
  return { json: JSON.parse(json.stdout), text: text.stdout };
}

/** Endpoints that the router would use. */
async function ready(fleet: Fleet): Promise<readonly string[]> {
  const { endpoints } = (await (await fetch(`${fleet.url}/kvatlas/v1/endpoints`)).json()) as {
    readonly endpoints: readonly { readonly endpoint: string; readonly ready: boolean }[];
  };
  return endpoints.filter((endpoint) => endpoint.ready).map(({ endpoint }) => endpoint);
}

describe("replicas that are pods", () => {
  it("are subscribed to and routed to as they come and go, by selector", async () => {
    const api = await startApi();
    const fleet = await startFleet(api, ({ http, events, replay }) => ({
      selector: "app=vllm",
      targetPorts: [http],
      eventsPort: events,
      replayPort: replay,
    }));
    const [one, two] = [`127.0.0.2:${fleet.httpPort}`, `127.0.0.3:${fleet.httpPort}`];
    expect((await ask(fleet, 1)).status).toBe(503);

    const first = await fleet.simulator("127.0.0.2");
    api.put(podsResource, pod("a", "127.0.0.2"));
    api.put(podsResource, pod("other", "127.0.0.9", { labels: { app: "web" } }));
    await eventually(async () => expect(await ready(fleet)).toEqual([one]));
    // Its events arrive: what it computes is found again.
    await eventually(async () => {
      const answer = await ask(fleet, 1);
      expect(answer).toMatchObject({ status: 200, endpoint: one, mode: "precise" });
      expect(answer.matched).toBeGreaterThan(0);
    });
    expect(first.blocks()).not.toEqual([]);

    await fleet.simulator("127.0.0.3");
    api.put(podsResource, pod("b", "127.0.0.3"));
    await eventually(async () => expect(await ready(fleet)).toEqual([one, two]));
    // On its way out: gone at once, for routing and for the index.
    api.put(podsResource, pod("a", "127.0.0.2", { deletionTimestamp: "2026-01-01T00:00:01Z" }));
    await eventually(async () => expect(await ready(fleet)).toEqual([two]));
    expect((await ask(fleet, 1)).endpoint).toBe(two);
    await eventually(async () => expect((await fleet.backend().registry.endpoints()).map(({ id }) => id)).toEqual([two]));
    // Not ready: keeps its place, gets nothing.
    api.put(podsResource, pod("b", "127.0.0.3", { ready: false }));
    await eventually(async () => expect(await ready(fleet)).toEqual([]));
    expect((await fleet.backend().registry.endpoints()).map(({ id }) => id)).toEqual([two]);
    api.put(podsResource, pod("b", "127.0.0.3"));
    await eventually(async () => expect(await ready(fleet)).toEqual([two]));
  });

  it("come through an InferencePool, and go with it", async () => {
    const api = await startApi();
    api.put(podsResource, pod("a", "127.0.0.2"));
    const fleet = await startFleet(api, ({ events, replay }) => ({ inferencePool: "qwen", eventsPort: events, replayPort: replay }));
    await fleet.simulator("127.0.0.2");
    const one = `127.0.0.2:${fleet.httpPort}`;
    await eventually(async () => expect(await fleet.readyz()).toContain("InferencePool default/qwen does not exist"));
    api.put(poolResource, inferencePool("qwen", [fleet.httpPort]));
    await eventually(async () => expect(await ready(fleet)).toEqual([one]));
    await eventually(async () => expect((await ask(fleet, 2)).matched).toBeGreaterThan(0));
    api.put(
      poolResource,
      inferencePool("qwen", [fleet.httpPort], { annotations: { "inference.networking.x-k8s.io/routing-strategy": "PREFIX_CACHE" } }),
    );
    await eventually(async () => expect((await ask(fleet, 3)).mode).toBe("estimated"));
    expect((await ask(fleet, 2, "chat")).status).toBe(404);
    api.put(modelsResource, {
      metadata: { name: "chat" },
      spec: { poolRef: { name: "qwen" }, modelName: "chat", targetModels: [{ name: model }] },
    });
    await eventually(async () => expect((await ask(fleet, 2, "chat")).status).toBe(200));
    api.remove(poolResource, "qwen");
    await eventually(async () => expect(await fleet.readyz()).toContain("InferencePool default/qwen does not exist"));
    expect((await ask(fleet, 2)).status).toBe(503);
    await eventually(async () => expect(await fleet.backend().registry.endpoints()).toEqual([]));
  });

  it("may dial the ingester: what they publish is theirs, under the settings that the cluster gives", async () => {
    const api = await startApi();
    const bind = `tcp://127.0.0.1:${await freePortRange(1)}`;
    const fleet = await startFleet(api, () => ({ inferencePool: "qwen" }), 1, {}, { bind });
    const one = `127.0.0.2:${fleet.httpPort}`;
    // It publishes before anybody knows its pod, and gets no requests until then.
    const simulator = await fleet.simulator("127.0.0.2", bind);
    const body = JSON.stringify({ model, prompt: prompt(5), max_tokens: 1 });
    await (
      await fetch(`${simulator.url}/v1/completions`, { method: "POST", headers: { "content-type": "application/json" }, body })
    ).text();
    await eventually(async () => expect((await fleet.backend().registry.endpoints()).map(({ id }) => id)).toEqual([one]));
    expect((await ask(fleet, 5)).status).toBe(503);
    api.put(podsResource, pod("a", "127.0.0.2"));
    api.put(poolResource, inferencePool("qwen", [fleet.httpPort]));
    await eventually(async () => expect(await ready(fleet)).toEqual([one]));
    await eventually(async () => expect((await ask(fleet, 5)).matched).toBeGreaterThan(0));
    api.remove(podsResource, "a");
    await eventually(async () => expect(await ready(fleet)).toEqual([]));
  });

  it("are watched by one ingester for all, which another one replaces", async () => {
    const api = await startApi();
    const redis = { url: testRedisUrl(), keyPrefix: uniqueKeyPrefix(), commandTimeoutMs: 1_000 };
    const fleet = await startFleet(api, ({ http }) => ({ selector: "app=vllm", targetPorts: [http] }), 2, redis);
    const { pools } = fleet.backend();
    await fleet.simulator("127.0.0.2");
    api.put(podsResource, pod("a", "127.0.0.2"));
    await eventually(async () => expect(await ready(fleet)).toEqual([`127.0.0.2:${fleet.httpPort}`]));
    expect(api.watchers).toBe(1);
    const leader = await pools.leader();
    expect(leader).not.toBeNull();
    const shown = await inspectPools(fleet);
    expect(shown.json).toMatchObject({
      discoveredBy: leader,
      pools: [
        {
          pool: "p",
          configured: true,
          settings: { mode: "precise", hashSeed: "42" },
          discovered: { targets: [{ pod: "default/a", ready: true }] },
        },
      ],
    });
    expect(shown.text).toMatch(new RegExp(`127\\.0\\.0\\.2:${fleet.httpPort} +p +default/a +0 +yes`));
    expect(shown.text).toContain("HGETALL");
    await fleet.ingesters.find(({ instanceId }) => instanceId === leader)?.close();
    api.put(podsResource, pod("b", "127.0.0.3"));
    await eventually(async () =>
      expect((await pools.read()).get("p")?.targets.map(({ pod: name }) => name)).toEqual(["default/a", "default/b"]),
    );
    expect(await pools.leader()).not.toBe(leader);
    expect(api.watchers).toBe(1);
  });
});
