import { once } from "node:events";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { request as httpRequest, type IncomingMessage } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createIngester } from "@kvatlas/ingester/app";
import { createRouter } from "@kvatlas/router/app";
import { createMemoryBackend } from "@kvatlas/shared/backend";
import { configSchema } from "@kvatlas/shared/config/schema";
import { silentLogger } from "@kvatlas/shared/logger";
import { createMetricsRegistry } from "@kvatlas/shared/metrics";
import { createSimulator, type Simulator } from "@kvatlas/simulator/app";
import { afterEach, describe, expect, it } from "vitest";
import { stringify } from "yaml";
import { clusterOf, envoyHint, findEnvoy, processingModeOf, type RunningEnvoy, startEnvoy } from "../support/envoy.ts";
import { eventually } from "../support/eventually.ts";
import { freePortRange } from "../support/free-ports.ts";
import { type HttpUpstream, startUpstream } from "../support/http-upstream.ts";
import { promptOf } from "../support/router-rig.ts";
import { type KvatlasProcess, startKvatlas } from "../support/services.ts";

const model = "org/model";
const closers: (() => Promise<unknown> | unknown)[] = [];

afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close();
});

/** Routers start and stop as processes, which takes as long as others leave them of two cores. */
const busyMs = 180_000;
const json = { "content-type": "application/json" };
const completion = (more: object = {}): string => JSON.stringify({ model, prompt: "x", max_tokens: 4, ...more });

/** Status, and which replica answered when it was a router that picked it; null when Envoy picked for itself. */
async function post(envoy: RunningEnvoy): Promise<{ readonly status: number; readonly picked: string | null }> {
  const response = await fetch(`${envoy.url}/v1/completions`, { method: "POST", headers: json, body: completion() });
  await response.arrayBuffer();
  return { status: response.status, picked: response.headers.get("x-kvatlas-endpoint") };
}

interface Replicas {
  readonly addresses: readonly string[];
  readonly upstreams: readonly HttpUpstream[];
  /** Ends the answers that are held open. */
  finish(): void;
  readonly open: number;
}

/** Replicas that answer at once, and streams when they are told to. */
async function startReplicas(): Promise<Replicas> {
  const waiting: (() => void)[] = [];
  const upstreams: HttpUpstream[] = [];
  for (let i = 0; i < 2; i++) {
    const upstream = await startUpstream((response, { body }) => {
      if (!body.includes('"stream":true')) {
        response.writeHead(200, json).end("{}");
        return;
      }
      response.writeHead(200, { "content-type": "text/event-stream" });
      response.write("data: 1\n\n");
      waiting.push(() => response.end("data: [DONE]\n\n"));
    });
    closers.push(() => upstream.kill());
    upstreams.push(upstream);
  }
  return {
    addresses: upstreams.map(({ address }) => address),
    upstreams,
    finish: () => {
      for (const finish of waiting.splice(0)) finish();
    },
    get open() {
      return waiting.length;
    },
  };
}

interface RouterProcess {
  readonly process: KvatlasProcess;
  readonly picker: string;
}

/** A router as a process, which may be killed; it routes by load and needs nobody else. */
async function startRouter(replicas: readonly string[], picker = "127.0.0.1:0"): Promise<RouterProcess> {
  const folder = await mkdtemp(join(tmpdir(), "kvatlas-router-"));
  closers.push(() => rm(folder, { recursive: true, force: true }));
  const file = join(folder, "kvatlas.yaml");
  const extProc = { listen: picker, health: "127.0.0.1:0", drainDelayMs: 3_000 };
  const pool = { name: "pool", model, prefixCache: { mode: "off" }, endpoints: { static: replicas.map((address) => ({ address })) } };
  await writeFile(
    file,
    stringify({ pools: [pool], router: { listen: "127.0.0.1:0", admin: "127.0.0.1:0", drainTimeoutMs: 20_000, extProc } }),
  );
  const process = startKvatlas(["router", "--config", file]);
  closers.push(() => process.kill("SIGKILL"));
  const address = await process.line((line) => (line.msg === "router is listening" ? String(line.extProc) : undefined));
  return { process, picker: address };
}

async function stream(envoy: RunningEnvoy): Promise<() => Promise<string>> {
  const request = httpRequest(`${envoy.url}/v1/completions`, { method: "POST", headers: json });
  request.end(completion({ stream: true }));
  const [response] = (await once(request, "response")) as [IncomingMessage];
  return async () => {
    let text = "";
    for await (const piece of response) text += String(piece);
    return text;
  };
}

describe.skipIf(findEnvoy() === null)(findEnvoy() === null ? envoyHint : "routers behind a real Envoy", () => {
  it(
    "may be killed: answers under way go on, further requests find a replica, and picks come back",
    async () => {
      const replicas = await startReplicas();
      const port = await freePortRange(1);
      const first = await startRouter(replicas.addresses, `127.0.0.1:${port}`);
      const envoy = await startEnvoy({ replicas: replicas.addresses, pickers: [first.picker] });
      closers.push(() => envoy.stop());
      await eventually(async () => expect(await post(envoy)).toEqual({ status: 200, picked: expect.stringContaining("127.0.0.1") }));
      const answers = await Promise.all(Array.from({ length: 20 }, () => stream(envoy)));
      await eventually(() => expect(replicas.open).toBe(20));

      first.process.kill("SIGKILL");
      await first.process.ended;
      await eventually(async () => expect(await envoy.healthyPickers()).toBe(0));
      for (let i = 0; i < 10; i++) expect(await post(envoy)).toEqual({ status: 200, picked: null });
      replicas.finish();
      const whole = "data: 1\n\ndata: [DONE]\n\n";
      expect(new Set(await Promise.all(answers.map((answer) => answer())))).toEqual(new Set([whole]));

      await startRouter(replicas.addresses, `127.0.0.1:${port}`);
      await eventually(async () => expect((await post(envoy)).picked).not.toBeNull());
    },
    busyMs,
  );

  it(
    "share the requests, and one of two may stop or be killed",
    async () => {
      const replicas = await startReplicas();
      const routers = [await startRouter(replicas.addresses), await startRouter(replicas.addresses)];
      const envoy = await startEnvoy({ replicas: replicas.addresses, pickers: routers.map(({ picker }) => picker) });
      closers.push(() => envoy.stop());
      await eventually(async () => expect(await envoy.healthyPickers()).toBe(2));
      const picked = { status: 200, picked: expect.stringContaining("127.0.0.1") };
      for (let i = 0; i < 20; i++) expect(await post(envoy)).toEqual(picked);

      // An orderly stop is noticed by the health checks before the router takes no more: nothing is lost.
      const [first, second] = routers;
      const stopped = first?.process.stop();
      let isStopped = false;
      void stopped?.then(() => {
        isStopped = true;
      });
      while (!isStopped) expect(await post(envoy)).toEqual(picked);
      expect(await stopped).toMatchObject({ code: 0 });
      for (let i = 0; i < 10; i++) expect(await post(envoy)).toEqual(picked);
      expect(await envoy.stat("http.openai.ext_proc.failure_mode_allowed")).toBe(0);

      second?.process.kill("SIGKILL");
      await eventually(async () => expect(await envoy.healthyPickers()).toBe(0));
      expect(await post(envoy)).toEqual({ status: 200, picked: null });
    },
    busyMs,
  );
});

interface Turn {
  readonly endpoint: string | null;
  readonly mode: string | null;
  readonly predicted: number;
  readonly cached: number;
  readonly answer: readonly number[];
}

async function complete(envoy: RunningEnvoy, prompt: readonly number[]): Promise<Turn> {
  const response = await fetch(`${envoy.url}/v1/completions`, {
    method: "POST",
    headers: json,
    body: JSON.stringify({ model, prompt, max_tokens: 40, ignore_eos: true, return_token_ids: true }),
  });
  expect(response.status).toBe(200);
  const answer = (await response.json()) as {
    choices: { token_ids: number[] }[];
    usage: { prompt_tokens_details?: { cached_tokens?: number } };
  };
  return {
    endpoint: response.headers.get("x-kvatlas-endpoint"),
    mode: response.headers.get("x-kvatlas-mode"),
    predicted: Number(response.headers.get("x-kvatlas-matched-tokens")),
    cached: answer.usage.prompt_tokens_details?.cached_tokens ?? 0,
    answer: answer.choices[0]?.token_ids ?? [],
  };
}

describe.skipIf(findEnvoy() === null)(findEnvoy() === null ? envoyHint : "replicas with events behind a real Envoy", () => {
  it.each(["override_host", "ORIGINAL_DST"])("keep a conversation where its prefix is (%s)", async (kind) => {
    const replicas: Simulator[] = [];
    for (let i = 0; i < 3; i++) {
      const replica = createSimulator({}, { model, speed: 50, seed: "7" });
      await replica.start();
      closers.push(() => replica.close());
      replicas.push(replica);
    }
    const addresses = replicas.map(({ address }) => address);
    const endpoints = replicas.map(({ address, eventsEndpoint, replayEndpoint }) => ({
      address,
      events: eventsEndpoint,
      replay: replayEndpoint,
    }));
    const config = configSchema.parse({
      pools: [{ name: "pool", model, endpoints: { static: endpoints }, prefixCache: { hashSeed: "7" } }],
      router: {
        listen: "127.0.0.1:0",
        admin: "127.0.0.1:0",
        lookupTimeoutMs: 2_000,
        extProc: { listen: "127.0.0.1:0", health: null, drainDelayMs: 0 },
      },
      ingester: { admin: "127.0.0.1:0", scrapeIntervalMs: 50 },
    });
    const { index, registry } = createMemoryBackend();
    const registries = {
      ingester: createMetricsRegistry("ingester", { processMetrics: false }),
      router: createMetricsRegistry("router", { processMetrics: false }),
    };
    const ingester = createIngester({ index, registry, logger: silentLogger, metricsRegistry: registries.ingester }, config);
    await ingester.start();
    closers.push(() => ingester.close());
    const router = createRouter(
      { index, registry, logger: silentLogger, metricsRegistry: registries.router, createEncoder: () => null },
      config,
    );
    await router.start();
    closers.push(() => router.close());
    const envoy = await startEnvoy({
      replicas: addresses,
      pickers: [router.extProcAddress ?? ""],
      change: (bootstrap) => {
        // So that what replicas say of their caches is seen as well.
        processingModeOf(bootstrap).response_body_mode = "STREAMED";
        if (kind === "override_host") return;
        const cluster = clusterOf(bootstrap, "model_servers");
        delete cluster.load_assignment;
        delete cluster.load_balancing_policy;
        cluster.type = "ORIGINAL_DST";
        cluster.lb_policy = "CLUSTER_PROVIDED";
        cluster.original_dst_lb_config = { use_http_header: true, http_header_name: "x-gateway-destination-endpoint" };
      },
    });
    closers.push(() => envoy.stop());
    await eventually(async () => expect(await envoy.healthyPickers()).toBe(1));
    await eventually(() => expect([...ingester.owned().values()].filter(({ isCaughtUp }) => isCaughtUp)).toHaveLength(3));
    // One answer, whoever gives it, teaches how keys are made.
    await complete(envoy, promptOf(400, 1));
    const firsts: Turn[] = [];
    for (let seed = 2; seed < 6; seed++) firsts.push(await complete(envoy, promptOf(800, seed)));
    for (const [i, first] of firsts.entries()) {
      const prompt = [...promptOf(800, i + 2), ...first.answer, 1, 2, 3];
      const second = await eventually(async () => {
        const turn = await complete(envoy, prompt);
        expect(turn.mode).toBe("precise");
        return turn;
      });
      expect(second.endpoint).toBe(first.endpoint);
      expect(second.cached).toBeGreaterThanOrEqual(800);
    }
  });
});
