import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { eventually } from "../support/eventually.ts";
import { testRedisUrl, uniqueKeyPrefix } from "../support/redis.ts";
import { ingesterAdmin, type KvatlasProcess, ready, routerAddresses, startKvatlas } from "../support/services.ts";
import { modelDirectory } from "../support/tokenizer-models.ts";

const model = "simulated";
const replicas = 8;

interface Replica {
  readonly address: string;
  readonly url: string;
  readonly eventsEndpoint: string;
  readonly replayEndpoint: string;
}

interface DryRun {
  readonly endpoint: string;
  readonly mode: string;
  readonly matchedTokens: number;
  readonly promptTokens: number;
}

/** Differs from its siblings from the first word on, and is a dozen blocks long. */
function conversation(i: number): string {
  const subject = ["whales", "bridges", "clocks", "harbours", "bread", "glaciers", "looms", "comets"][i] ?? String(i);
  return `${subject} are what this is about. ${`Tell me more about ${subject}, and do not leave anything out that matters. `.repeat(12)}`;
}

function bodyOf(content: string): string {
  return JSON.stringify({ model, messages: [{ role: "user", content }], max_tokens: 4 });
}

async function dryRun(url: string, content: string): Promise<DryRun> {
  const response = await fetch(`${url}/kvatlas/v1/route`, { method: "POST", body: bodyOf(content) });
  expect(response.status).toBe(200);
  return (await response.json()) as DryRun;
}

async function ask(url: string, content: string): Promise<{ readonly endpoint: string | null }> {
  const response = await fetch(`${url}/v1/chat/completions`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: bodyOf(content),
  });
  expect(response.status, await response.clone().text()).toBe(200);
  await response.arrayBuffer();
  return { endpoint: response.headers.get("x-kvatlas-endpoint") };
}

describe("two routers, two ingesters and eight replicas on one Redis", { timeout: 180_000 }, () => {
  const started: KvatlasProcess[] = [];
  let folder = "";
  let config = "";
  let one = "";
  let two = "";
  let second: KvatlasProcess;

  function start(...args: readonly string[]): KvatlasProcess {
    const service = startKvatlas([...args, "--config", config]);
    started.push(service);
    return service;
  }

  async function startRouter(): Promise<{ readonly service: KvatlasProcess; readonly url: string }> {
    const service = start("router");
    const { url, admin } = await routerAddresses(service);
    await ready(admin);
    return { service, url };
  }

  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), "kvatlas-e2e-"));
    config = join(folder, "kvatlas.yaml");
    const tokenizer = modelDirectory("qwen3");
    const simulator = startKvatlas([
      "simulator",
      "--port",
      "0",
      "--replicas",
      String(replicas),
      "--tokenizer",
      tokenizer,
      "--seed",
      "42",
      "--json",
    ]);
    started.push(simulator);
    const fleet = await simulator.line((line) => (line.ready === true ? (line.replicas as readonly Replica[]) : undefined));
    const text = {
      redis: { url: testRedisUrl(), keyPrefix: uniqueKeyPrefix(), commandTimeoutMs: 2_000 },
      pools: [
        {
          name: "pool",
          model,
          endpoints: {
            static: fleet.map(({ url, eventsEndpoint, replayEndpoint }) => ({
              address: url.replace("http://", ""),
              events: eventsEndpoint.replace("*", "127.0.0.1"),
              replay: replayEndpoint.replace("*", "127.0.0.1"),
            })),
          },
          tokenizer: { path: tokenizer, threads: 1 },
        },
      ],
      // Correctness is what is tested: nothing may depend on how busy the machine is.
      router: { listen: "127.0.0.1:0", admin: "127.0.0.1:0", tokenizeTimeoutMs: 20_000, lookupTimeoutMs: 5_000 },
      ingester: { admin: "127.0.0.1:0" },
    };
    // JSON is YAML.
    await writeFile(config, JSON.stringify(text));
    const ingesters = [start("ingester"), start("ingester")];
    for (const ingester of ingesters) await ready(await ingesterAdmin(ingester));
    const routers = [await startRouter(), await startRouter()];
    one = routers[0]?.url ?? "";
    two = routers[1]?.url ?? "";
    second = routers[1]?.service ?? simulator;
  }, 180_000);

  afterAll(async () => {
    await Promise.all(started.map((service) => service.stop()));
    await rm(folder, { recursive: true, force: true });
  });

  it("both routers give the same answer, and it is the holder's", async () => {
    const holders = new Map<number, string | null>();
    for (let i = 0; i < replicas; i++) holders.set(i, (await ask(i % 2 === 0 ? one : two, conversation(i))).endpoint);
    expect(new Set(holders.values()).size).toBeGreaterThan(1);
    for (let i = 0; i < replicas; i++) {
      await eventually(async () => {
        const [a, b] = [await dryRun(one, conversation(i)), await dryRun(two, conversation(i))];
        expect(a).toMatchObject({ endpoint: holders.get(i), mode: "precise" });
        expect(a.matchedTokens).toBe(Math.floor((a.promptTokens - 1) / 16) * 16);
        expect({ ...b, timings: null }).toEqual({ ...a, timings: null });
      });
    }
  });

  it("a router that was restarted answers right from its first request", async () => {
    const before = await Promise.all(Array.from({ length: replicas }, (_, i) => dryRun(one, conversation(i))));
    expect(await second.stop()).toEqual({ code: 0, signal: null });
    const restarted = await startRouter();
    const after = await dryRun(restarted.url, conversation(0));
    expect(after).toMatchObject({ mode: "precise", endpoint: before[0]?.endpoint, matchedTokens: before[0]?.matchedTokens });
    expect(after.matchedTokens).toBeGreaterThan(0);
    for (let i = 1; i < replicas; i++) {
      expect(await dryRun(restarted.url, conversation(i))).toMatchObject({
        endpoint: before[i]?.endpoint,
        matchedTokens: before[i]?.matchedTokens,
      });
    }
  });

  it("inspect and doctor see the same", async () => {
    const inspect = startKvatlas(["inspect", "prompt", conversation(3), "--config", config, "--json"]);
    expect((await inspect.ended).code, inspect.stderr).toBe(0);
    const { scopes } = JSON.parse(inspect.stdout) as {
      readonly scopes: readonly {
        readonly keys: readonly string[];
        readonly blockSizeTokens: number;
        readonly matches: readonly { readonly endpoint: string; readonly blocks: number }[];
      }[];
    };
    const expected = await dryRun(one, conversation(3));
    expect(scopes[0]?.matches[0]?.endpoint).toBe(expected.endpoint);
    expect((scopes[0]?.matches[0]?.blocks ?? 0) * (scopes[0]?.blockSizeTokens ?? 0)).toBe(expected.matchedTokens);

    const endpoints = startKvatlas(["inspect", "endpoints", "--config", config, "--json"]);
    expect((await endpoints.ended).code, endpoints.stderr).toBe(0);
    expect((JSON.parse(endpoints.stdout) as { readonly endpoints: readonly unknown[] }).endpoints).toHaveLength(replicas);

    const stats = startKvatlas(["inspect", "stats", "--config", config, "--json"]);
    expect((await stats.ended).code, stats.stderr).toBe(0);
    const counted = JSON.parse(stats.stdout) as {
      readonly ingesters: readonly string[];
      readonly routers: readonly string[];
      readonly scopes: readonly { readonly blocks: number; readonly entries: number; readonly deadEntries: number }[];
    };
    expect([counted.ingesters.length, counted.routers.length]).toEqual([2, 2]);
    // One entry per conversation and block, and what the conversations share is held once per replica.
    expect(counted.scopes[0]?.blocks).toBeGreaterThanOrEqual(expected.matchedTokens / 16);
    expect(counted.scopes[0]?.entries).toBeGreaterThanOrEqual(counted.scopes[0]?.blocks ?? 0);

    const key = scopes[0]?.keys[0] ?? "";
    const block = startKvatlas(["inspect", "block", key, "--config", config, "--json"]);
    expect((await block.ended).code, block.stderr).toBe(0);
    const { scopes: holdersByScope } = JSON.parse(block.stdout) as {
      readonly scopes: readonly { readonly holders: readonly { readonly endpoint: string; readonly live: boolean }[] }[];
    };
    expect(holdersByScope[0]?.holders).toContainEqual(expect.objectContaining({ endpoint: expected.endpoint, live: true }));

    // Replicas that nobody has asked anything have told nothing; ask each, then there is nothing left to find.
    const { endpoints: known } = JSON.parse(endpoints.stdout) as { readonly endpoints: readonly { readonly id: string }[] };
    await Promise.all(known.map(({ id }, i) => ask(`http://${id}`, `Something else ${i}. ${conversation(i)}`)));
    await eventually(async () => {
      const doctor = startKvatlas(["doctor", "--config", config, "--json"]);
      expect((await doctor.ended).code, doctor.stdout).toBe(0);
      const { verdicts } = JSON.parse(doctor.stdout) as {
        readonly verdicts: readonly { readonly check: string; readonly status: string }[];
      };
      expect(verdicts.find(({ check }) => check === "parity")?.status).toBe("ok");
    }, 60_000);
  });
});
