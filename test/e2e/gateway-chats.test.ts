import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeAll, describe, expect, it } from "vitest";
import { envoyHint, findEnvoy, type RunningEnvoy, startEnvoy } from "../support/envoy.ts";
import { eventually } from "../support/eventually.ts";
import { freePortRange } from "../support/free-ports.ts";
import { KubeApiServer, pod, podsResource } from "../support/kube-api-server.ts";
import { at, type Manifest, manifestsOf } from "../support/manifests.ts";
import { testRedisUrl, uniqueKeyPrefix } from "../support/redis.ts";
import { ingesterAdmin, type KvatlasProcess, ready, routerAddresses, startKvatlas } from "../support/services.ts";
import { modelDirectory } from "../support/tokenizer-models.ts";

/**
 * What the guides for gateways end with: two rounds of a chat, sent to an Envoy as it is shipped, and the router's log. All of it are processes of their own; the
 * cluster is an API server with the objects of the published guides.
 */

const busyMs = 480_000;
/** Nothing may depend on how busy the machine is. */
const patientMs = 120_000;
const tokenizer = modelDirectory("qwen3");
const replicaIps = ["127.0.0.2", "127.0.0.3", "127.0.0.4"];
/** Rounds of so many chats on every replica: landing right each time is no accident. */
const chatsPerReplica = 2;
/** By then every replica has had its share, but for one time in 10^10. */
const maxChats = 80;
const blockTokens = 64;

/** What replicas serve. */
const served = "qwen";

const closers: (() => Promise<unknown> | unknown)[] = [];
let folder = "";

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "kvatlas-chats-"));
  return () => rm(folder, { recursive: true, force: true });
});
afterEach(async () => {
  // Services first: what they watch and write to ends after them.
  for (const close of closers.splice(0).reverse()) await close();
});

/** Plural by kind, as API servers have it. */
const plurals: Readonly<Record<string, string>> = {
  InferencePool: "inferencepools",
  InferenceTrafficPolicy: "inferencetrafficpolicies",
  InferenceModel: "inferencemodels",
};

interface Cluster {
  readonly kubeconfig: string;
  /** Name of the guide's InferencePool. */
  readonly pool: string;
}

/** An API server with a guide's objects that routers read, as far as ports and models here allow, and a ready pod for each replica. */
async function startCluster(guide: string, targetPort: number): Promise<Cluster> {
  const text = await readFile(new URL(`../fixtures/kubernetes/guides/${guide}.yaml`, import.meta.url), "utf8");
  const objects = manifestsOf(text).filter(({ kind }) => kind in plurals);
  const resourceOf = ({ apiVersion, kind }: Manifest): string => `${apiVersion}/${plurals[kind]}`;
  const api = new KubeApiServer(objects.map(resourceOf));
  await api.start();
  closers.push(() => api.close());
  const here: Readonly<Record<string, object>> = {
    InferencePool: { targetPortNumber: targetPort },
    InferenceModel: { targetModels: [{ name: served, weight: 100 }] },
  };
  for (const object of objects)
    api.put(resourceOf(object), { metadata: object.metadata, spec: { ...(object.spec as object), ...here[object.kind] } });
  const pool = objects.find(({ kind }) => kind === "InferencePool");
  const labels = at(pool, "spec.selector") as Readonly<Record<string, string>>;
  for (const [i, ip] of replicaIps.entries())
    api.put(podsResource, pod(`qwen-${i}`, ip, { labels: { ...labels, "pod-template-hash": "5d9f8" } }));
  return { kubeconfig: (await api.kubeconfig()).path, pool: pool?.metadata.name ?? "" };
}

interface Replicas {
  readonly http: number;
  readonly replay: number;
  readonly events: number;
}

function run(args: readonly string[]): KvatlasProcess {
  const service = startKvatlas(args);
  closers.push(() => service.stop());
  return service;
}

/** vLLM's arguments in the guide: each replica dials one address for its events, under the topic that names it. */
async function startReplicas(): Promise<Replicas & { stop(): Promise<unknown> }> {
  const http = await freePortRange(3);
  const ports = { http, replay: http + 1, events: http + 2 };
  const processes = replicaIps.map((ip) => {
    const events = ["--kv-events-endpoint", `tcp://127.0.0.1:${ports.events}`, "--topic", `kv@${ip}@${served}`];
    const engine = ["--model", served, "--tokenizer", tokenizer, "--block-size", String(blockTokens), "--seed", "42", "--speed", "50"];
    const where = ["--host", ip, "--port", String(http), "--replay-endpoint", `tcp://${ip}:${ports.replay}`];
    return startKvatlas(["simulator", ...where, ...events, ...engine, "--json"]);
  });
  await Promise.all(processes.map((process) => process.line((line) => (line.ready === true ? line : undefined))));
  return { ...ports, stop: () => Promise.all(processes.map((process) => process.stop())) };
}

/** A configuration file for services that know their replicas from the cluster alone. */
async function writeConfig(guide: string, replicas: Replicas, more: object): Promise<string> {
  const file = join(folder, `${guide}.json`);
  const extProc = { listen: "127.0.0.1:0", health: null, pickTimeoutMs: patientMs, drainDelayMs: 0 };
  const { kubeconfig, pool } = await startCluster(guide, replicas.http);
  const config = {
    kubernetes: { kubeconfig },
    pools: [
      {
        name: pool,
        model: served,
        tokenizer: { path: tokenizer, threads: 1 },
        endpoints: { kubernetes: { inferencePool: pool } },
      },
    ],
    router: {
      listen: "127.0.0.1:0",
      admin: "127.0.0.1:0",
      tokenizeTimeoutMs: patientMs,
      lookupTimeoutMs: patientMs,
      endpointTtlMs: patientMs,
      // Marks ahead of the events would do as well: here the events are to show.
      speculationMs: 0,
      extProc,
    },
    ingester: {
      admin: "127.0.0.1:0",
      leaseTtlMs: patientMs,
      bind: `tcp://127.0.0.1:${replicas.events}`,
      bindHttpPort: replicas.http,
      bindReplayPort: replicas.replay,
    },
    ...more,
  };
  // JSON is YAML.
  await writeFile(file, JSON.stringify(config));
  return file;
}

interface RouterProcess {
  readonly process: KvatlasProcess;
  readonly url: string;
  readonly picker: string;
}

async function startRouter(command: string, config: string): Promise<RouterProcess> {
  const process = run([command, "--config", config]);
  const { url, admin } = await routerAddresses(process);
  const picker = await process.line((line) => (line.msg === "router is listening" ? String(line.extProc) : undefined));
  await ready(admin);
  return { process, url, picker };
}

async function startGateway(replicas: Replicas, routers: readonly RouterProcess[]): Promise<RunningEnvoy> {
  const envoy = await startEnvoy({
    replicas: replicaIps.map((ip) => `${ip}:${replicas.http}`),
    pickers: routers.map(({ picker }) => picker),
  });
  closers.push(() => envoy.stop());
  await eventually(async () => expect(await envoy.healthyPickers()).toBe(routers.length), patientMs);
  return envoy;
}

interface Message {
  readonly role: string;
  readonly content: string;
}

interface Round {
  readonly id: string;
  readonly endpoint: string | null;
  readonly promptTokens: number;
  /** What the replica itself says it had. */
  readonly cachedTokens: number;
  readonly answer: Message;
}

async function send(envoy: RunningEnvoy, id: string, model: string, messages: readonly Message[]): Promise<Round> {
  const response = await fetch(`${envoy.url}/v1/chat/completions`, {
    method: "POST",
    headers: { "content-type": "application/json", "x-request-id": id },
    body: JSON.stringify({ model, messages, max_tokens: 32 }),
  });
  const text = await response.text();
  expect(response.status, text).toBe(200);
  const { choices, usage } = JSON.parse(text) as {
    readonly choices: readonly { readonly message: Message }[];
    readonly usage: { readonly prompt_tokens: number; readonly prompt_tokens_details?: { readonly cached_tokens?: number } | null };
  };
  return {
    id,
    endpoint: response.headers.get("x-kvatlas-endpoint"),
    promptTokens: usage.prompt_tokens,
    cachedTokens: usage.prompt_tokens_details?.cached_tokens ?? 0,
    answer: choices[0]?.message ?? { role: "assistant", content: "" },
  };
}

/** Chats differ from their first words on, and are many blocks long. */
function question(about: string, i: number): readonly Message[] {
  const subject = `${about} ${i}, which is number ${i * 7_919} in the catalogue`;
  const sentence = `Tell me more about ${subject}, and leave nothing out that matters to somebody who reads about it for the first time. `;
  return [{ role: "user", content: `${subject}. ${sentence.repeat(20)}` }];
}

interface Chat {
  readonly first: Round;
  /** All that was said so far, and one question more. */
  readonly further: readonly Message[];
}

/** First rounds, until every replica has some of the chats. */
async function openChats(envoy: RunningEnvoy, model: string, about: string): Promise<readonly Chat[]> {
  const chats: Chat[] = [];
  const counts = new Map<string | null, number>();
  while (counts.size < replicaIps.length || Math.min(...counts.values()) < chatsPerReplica) {
    if (chats.length === maxChats) throw new Error(`of ${maxChats} chats replicas have ${JSON.stringify([...counts])}`);
    const messages = question(about, chats.length);
    const first = await send(envoy, `round-1-${chats.length}`, model, messages);
    counts.set(first.endpoint, (counts.get(first.endpoint) ?? 0) + 1);
    chats.push({ first, further: [...messages, first.answer, { role: "user", content: "And what would you ask next?" }] });
  }
  return chats;
}

interface Would {
  readonly mode: string;
  readonly endpoint: string;
  readonly matchedBlocks: number;
}

/** Where a router would send a request now. */
async function dryRun({ url }: RouterProcess, model: string, messages: readonly Message[]): Promise<Would> {
  const response = await fetch(`${url}/kvatlas/v1/route`, { method: "POST", body: JSON.stringify({ model, messages }) });
  const { mode, endpoint, matchedBlocks } = (await response.json()) as Would;
  return { mode, endpoint, matchedBlocks };
}

type Line = Readonly<Record<string, unknown>>;

/** The line of a request in the log of whichever router was asked. */
function logged(routers: readonly RouterProcess[], id: string, text: RegExp): Promise<Line> {
  const find = (line: Line) => (line["x-request-id"] === id && text.test(String(line.msg)) ? line : undefined);
  return eventually(() => {
    for (const { process } of routers) {
      for (const line of process.lines()) if (find(line) !== undefined) return line;
    }
    throw new Error(`nobody has logged ${text} of ${id}`);
  }, patientMs);
}

/** What the published guides tell to look for. */
function expectHandled(line: Line, expected: { readonly model: string; readonly target: string; readonly criticality: string }): void {
  expect(line).toMatchObject({
    model: expected.model,
    resolvedTargetModel: expected.target,
    criticality: expected.criticality,
    pod: expect.stringMatching(/^default\/qwen-[012]$/),
    labels: { app: expect.any(String), "pod-template-hash": "5d9f8" },
    gateway: true,
    status: 200,
    outcome: "completed",
  });
  const index = replicaIps.findIndex((ip) => String(line.endpoint).startsWith(`${ip}:`));
  expect(line.pod).toBe(`default/qwen-${index}`);
}

describe.skipIf(findEnvoy() === null)(findEnvoy() === null ? envoyHint : "two rounds of a chat through a real Envoy", () => {
  let replicas: Replicas;

  beforeAll(async () => {
    const started = await startReplicas();
    replicas = started;
    return () => started.stop();
  }, busyMs);

  it(
    "land on the same replica in precise mode, whichever of two routers is asked",
    async () => {
      const config = await writeConfig("ack-precise", replicas, {
        redis: { url: testRedisUrl(), keyPrefix: uniqueKeyPrefix(), commandTimeoutMs: patientMs },
      });
      const ingester = run(["ingester", "--config", config]);
      const routers = await Promise.all([startRouter("router", config), startRouter("router", config)]);
      await ready(await ingesterAdmin(ingester));
      const envoy = await startGateway(replicas, routers);

      const chats = await openChats(envoy, served, "Whale");
      for (const [i, { first, further }] of chats.entries()) {
        const wanted = Math.floor((first.promptTokens - 1) / blockTokens);
        // Its events have arrived, and what earlier requests weighed is forgotten.
        for (const router of routers) {
          await eventually(async () => {
            const { matchedBlocks, ...would } = await dryRun(router, served, further);
            expect(would).toEqual({ mode: "precise", endpoint: first.endpoint });
            expect(matchedBlocks).toBeGreaterThanOrEqual(wanted);
          }, patientMs);
        }
        const second = await send(envoy, `round-2-${i}`, served, further);
        expect(second.endpoint).toBe(first.endpoint);
        expect(second.cachedTokens).toBeGreaterThanOrEqual(wanted * blockTokens);

        const known = { model: served, target: served, criticality: "standard" };
        const before = await logged(routers, first.id, /^request handled$/);
        const after = await logged(routers, second.id, /^request handled$/);
        expectHandled(before, known);
        expectHandled(after, known);
        expect(after).toMatchObject({ mode: "precise", reason: "prefix", endpoint: before.endpoint, pod: before.pod });
        const aware = await logged(routers, second.id, /^prefix-aware routing$/);
        expect(aware).toMatchObject({ endpoint: after.endpoint, matchedBlocks: after.matchedBlocks });
        expect(aware.matchedBlocks).toBeGreaterThanOrEqual(wanted);
        // The last blocks of the first answer may not have been told of by then.
        expect(second.cachedTokens).toBeGreaterThanOrEqual(Number(after.matchedTokens));
      }
    },
    busyMs,
  );

  it(
    "land on the same replica in estimated mode, with nothing but the pool's annotation to choose it",
    async () => {
      // The name in requests is that of the guide's InferenceModel, which stands for what replicas serve.
      const model = "/model/qwen";
      const config = await writeConfig("ack-estimated", replicas, {});
      const routers = [await startRouter("all-in-one", config)];
      const envoy = await startGateway(replicas, routers);

      const chats = await openChats(envoy, model, "Bridge");
      for (const [i, { first, further }] of chats.entries()) {
        const known = { model, target: served, criticality: "critical" };
        const before = await logged(routers, first.id, /^request handled$/);
        expectHandled(before, known);
        for (const router of routers) {
          await eventually(
            async () => expect(await dryRun(router, model, further)).toMatchObject({ mode: "estimated", endpoint: first.endpoint }),
            patientMs,
          );
        }
        const second = await send(envoy, `round-2-${i}`, model, further);
        expect(second.endpoint).toBe(first.endpoint);
        expect(second.cachedTokens).toBeGreaterThan(0);
        const handled = await logged(routers, second.id, /^request handled$/);
        expectHandled(handled, known);
        expect(handled).toMatchObject({ mode: "estimated", reason: "prefix", endpoint: before.endpoint });
        const aware = await logged(routers, second.id, /^do prefix-aware routing, matching ratio: (1\.00|0\.[5-9]\d) > 0\.50$/);
        expect(aware.matchingRatio).toBeGreaterThan(0.5);

        // The same once more is known from its first block to its last.
        const again = await send(envoy, `again-${i}`, model, further);
        expect(again.endpoint).toBe(first.endpoint);
        await logged(routers, again.id, /^do prefix-aware routing, matching ratio: 1\.00 > 0\.50$/);
      }
    },
    busyMs,
  );
});
