import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { eventually } from "../support/eventually.ts";
import { freePort, type RedisServer, startRedisServer } from "../support/redis-server.ts";
import { ingesterAdmin, type KvatlasProcess, ready, routerAddresses, startKvatlas } from "../support/services.ts";
import { StreamLoad } from "../support/stream-load.ts";
import { modelDirectory } from "../support/tokenizer-models.ts";

const model = "simulated";
const preload = new URL("../support/end-worker-on-signal.mjs", import.meta.url).href;
/** Answers that have to come while something is away. */
const enough = 15;

interface Replica {
  readonly service: KvatlasProcess;
  readonly address: string;
  readonly events: string;
  readonly replay: string;
}

describe("while answers stream", { timeout: 240_000 }, () => {
  const started: KvatlasProcess[] = [];
  const replicas: Replica[] = [];
  let folder = "";
  let redis: RedisServer;
  let ingester: KvatlasProcess;
  let router: KvatlasProcess;
  let admin = "";
  let load: StreamLoad;

  function start(args: readonly string[], env: Readonly<Record<string, string>> = {}): KvatlasProcess {
    const service = startKvatlas(args, env);
    started.push(service);
    return service;
  }

  async function startReplica(tokenizer: string): Promise<Replica> {
    const service = start(["simulator", "--port", "0", "--replicas", "1", "--tokenizer", tokenizer, "--seed", "42", "--json"]);
    const [replica] = await service.line((line) =>
      line.ready === true
        ? (line.replicas as readonly { readonly url: string; readonly eventsEndpoint: string; readonly replayEndpoint: string }[])
        : undefined,
    );
    if (replica === undefined) throw new Error("the simulator has no replica");
    return {
      service,
      address: replica.url.replace("http://", ""),
      events: replica.eventsEndpoint.replace("*", "127.0.0.1"),
      replay: replica.replayEndpoint.replace("*", "127.0.0.1"),
    };
  }

  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), "kvatlas-chaos-"));
    const config = join(folder, "kvatlas.yaml");
    const tokenizer = modelDirectory("qwen3");
    redis = await startRedisServer({ port: await freePort() });
    replicas.push(...(await Promise.all([startReplica(tokenizer), startReplica(tokenizer), startReplica(tokenizer)])));
    const text = {
      redis: { url: redis.url },
      pools: [
        {
          name: "pool",
          model,
          endpoints: { static: replicas.map(({ address, events, replay }) => ({ address, events, replay })) },
          tokenizer: { source: "local", path: tokenizer, threads: 2, engine: "javascript" },
        },
      ],
      router: { listen: "127.0.0.1:0", admin: "127.0.0.1:0", tokenizeTimeoutMs: 10_000, lookupTimeoutMs: 1_000 },
      ingester: { admin: "127.0.0.1:0" },
    };
    // JSON is YAML.
    await writeFile(config, JSON.stringify(text));
    ingester = start(["ingester", "--config", config]);
    await ready(await ingesterAdmin(ingester));
    router = start(["router", "--config", config], { NODE_OPTIONS: `--import ${preload}` });
    const addresses = await routerAddresses(router);
    admin = addresses.admin;
    await ready(admin);
    load = new StreamLoad({ url: addresses.url, model, workers: 6, maxTokens: 24 });
  }, 180_000);

  afterAll(async () => {
    await load?.stop();
    await Promise.all(started.map((service) => service.stop()));
    await redis?.stop();
    await rm(folder, { recursive: true, force: true });
  });

  async function metric(line: string): Promise<number> {
    const text = await (await fetch(`${admin}/metrics`)).text();
    const found = text.split("\n").find((candidate) => candidate.startsWith(`${line} `));
    return found === undefined ? 0 : Number(found.slice(line.length + 1));
  }

  /** Waits for so many more answers of a mode. */
  async function answers(mode: RegExp, count = enough): Promise<void> {
    const before = load.completed.length;
    await eventually(() => {
      const came = load.completed.slice(before).filter((answer) => mode.test(answer.mode ?? "")).length;
      if (came < count) throw new Error(`${came} of ${count} answers in mode ${mode} have come; failed: ${JSON.stringify(load.failed)}`);
    }, 60_000);
  }

  it("Redis, a tokenizer thread, the ingester and a replica may go: requests keep flowing", async () => {
    load.start();
    await answers(/^precise$/);

    await redis.stop();
    await answers(/^(?!precise)/);
    redis = await startRedisServer({ port: Number(new URL(redis.url).port) });
    await answers(/^precise$/);
    expect(load.failed).toEqual([]);

    router.kill("SIGUSR2");
    router.kill("SIGUSR2");
    await eventually(async () => expect(await metric('kvatlas_router_tokenizer_threads_ended_total{pool="pool"}')).toBeGreaterThan(0));
    await answers(/./);
    await answers(/^precise$/);
    expect(load.failed).toEqual([]);

    ingester.kill("SIGKILL");
    await ingester.ended;
    await answers(/./);
    expect(load.failed).toEqual([]);

    // Whatever is on its way to the replica without a first byte is answered by another one; the one that streams is lost, and known to be.
    const [victim] = replicas;
    if (victim === undefined) throw new Error("there is no replica");
    const streaming = await load.streamFrom(victim.address);
    victim.service.kill("SIGKILL");
    await victim.service.ended;
    expect(await streaming.ended).toMatchObject({ outcome: "cut", endpoint: victim.address });
    await answers(/./, 2 * enough);
    await load.stop();

    for (const { outcome, endpoint } of load.failed) expect({ outcome, endpoint }).toEqual({ outcome: "cut", endpoint: victim.address });
    const cut = await metric('kvatlas_router_requests_total{outcome="cut",status="2xx"}');
    expect(cut).toBe(load.failed.length + 1);
    expect(await metric('kvatlas_router_requests_total{outcome="refused",status="5xx"}')).toBe(0);
    expect(await router.stop(), router.stdout.slice(-2_000)).toEqual({ code: 0, signal: null });
  });
});
