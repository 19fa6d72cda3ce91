import { createMemoryBackend } from "@kvatlas/shared/backend";
import { afterEach, describe, expect, it } from "vitest";
import { answerOk, type HttpUpstream, startUpstream } from "../support/http-upstream.ts";
import { describeEndpoint, promptOf, type Rig, type RigOptions, rigModel, startRig } from "../support/router-rig.ts";

const upstreams: HttpUpstream[] = [];
const rigs: Rig[] = [];

afterEach(async () => {
  await Promise.all(rigs.splice(0).map((rig) => rig.router.close()));
  await Promise.all(upstreams.splice(0).map((upstream) => upstream.kill()));
});

async function replicas(n: number): Promise<string[]> {
  for (let i = 0; i < n; i++) upstreams.push(await startUpstream(answerOk));
  return upstreams.slice(-n).map((upstream) => upstream.address);
}

async function rigOf(options: RigOptions): Promise<Rig> {
  const rig = await startRig(options);
  rigs.push(rig);
  return rig;
}

function complete(rig: Rig, prompt: unknown, extra: object = {}): Promise<Response> {
  return fetch(`${rig.url}/v1/completions`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ model: rigModel, prompt, ...extra }),
  });
}

async function dryRun(rig: Rig, body: object): Promise<Record<string, unknown> & { endpoint: string; scores: { endpoint: string }[] }> {
  const response = await fetch(`${rig.url}/kvatlas/v1/route`, { method: "POST", body: JSON.stringify(body) });
  expect(response.status).toBe(200);
  return (await response.json()) as never;
}

describe("routing by prefix", () => {
  it("sends a request to the replica that holds the longest prefix", async () => {
    const endpoints = await replicas(3);
    const rig = await rigOf({ endpoints });
    const prompt = promptOf(160, 1);
    for (const [i, endpoint] of endpoints.entries()) await rig.hold(endpoint, prompt, 2 + 3 * i);
    await expect.poll(async () => (await dryRun(rig, { model: rigModel, token_ids: prompt })).matchedTokens).toBe(128);

    const response = await complete(rig, prompt);
    expect(response.headers.get("x-kvatlas-endpoint")).toBe(endpoints[2]);
    expect(response.headers.get("x-kvatlas-matched-tokens")).toBe("128");
    expect(response.headers.get("x-kvatlas-mode")).toBe("precise");
    expect(await response.json()).toEqual({ ok: true });
    expect(upstreams[2]?.requests).toHaveLength(1);
  });

  it("never counts the last block of a prompt that ends with it", async () => {
    const endpoints = await replicas(2);
    const rig = await rigOf({ endpoints });
    const prompt = promptOf(64, 2);
    for (const endpoint of endpoints) await rig.hold(endpoint, prompt, 4);
    await expect
      .poll(async () => await dryRun(rig, { model: rigModel, token_ids: prompt }))
      .toMatchObject({ matchedTokens: 48, blocks: 3 });
  });

  it("leaves a replica whose queue costs more than its prefix is worth", async () => {
    const endpoints = await replicas(2);
    const [holder = "", other = ""] = endpoints;
    const rig = await rigOf({ endpoints });
    const prompt = promptOf(160, 3);
    await rig.hold(holder, prompt, 9);
    await describeEndpoint(rig.registry, other);
    await expect.poll(async () => (await dryRun(rig, { model: rigModel, token_ids: prompt })).endpoint).toBe(holder);

    // Another router reports work for the holder: more than 3 x 144 uncached tokens.
    await rig.registry.beat("router", "elsewhere", Date.now());
    await rig.registry.setInflight(
      "elsewhere",
      new Map([[holder as never, { requests: 4, prefillTokens: 1_000, decodeTokens: 0 }]]),
      60_000,
    );
    await expect
      .poll(async () => await dryRun(rig, { model: rigModel, token_ids: prompt }))
      .toMatchObject({ endpoint: other, reason: "balanced" });
  });

  it("places cold prompts by content: the same one always alike, different ones apart", async () => {
    const endpoints = await replicas(4);
    const rig = await rigOf({ endpoints });
    for (const endpoint of endpoints) await rig.hold(endpoint, promptOf(16, 999), 1);
    await expect.poll(async () => (await dryRun(rig, { model: rigModel, token_ids: promptOf(64, 4) })).mode).toBe("precise");

    const places = new Set<string>();
    for (let seed = 10; seed < 40; seed++) {
      const first = await dryRun(rig, { model: rigModel, token_ids: promptOf(64, seed) });
      expect(first.reason).toBe("cold");
      expect((await dryRun(rig, { model: rigModel, token_ids: promptOf(64, seed) })).endpoint).toBe(first.endpoint);
      places.add(first.endpoint);
    }
    expect(places.size).toBe(4);
  });

  it("gives the same answer from every router", async () => {
    const endpoints = await replicas(4);
    const backend = createMemoryBackend();
    const one = await rigOf({ endpoints, backend, routerId: "one" });
    const two = await rigOf({ endpoints, backend, routerId: "two" });
    const prompts = [1, 2, 3, 4, 5, 6].map((seed) => promptOf(200, seed));
    for (const [i, prompt] of prompts.entries()) if (i % 2 === 0) await one.hold(endpoints[i % 4] ?? "", prompt, 3 + i);
    await one.registry.setLoad(
      new Map([
        [
          endpoints[1] as never,
          { waiting: 3, running: 9, kvUsage: 0.5, maxTokens: null, runningLoras: [], waitingLoras: [], sleeping: false, at: Date.now() },
        ],
      ]),
    );
    for (const rig of [one, two]) {
      await expect
        .poll(async () => (await (await fetch(`${rig.url}/kvatlas/v1/endpoints`)).json()) as object)
        .toMatchObject({ routers: ["one", "two"], endpoints: endpoints.map(() => ({ ready: true })) });
    }
    for (const prompt of prompts) {
      const body = { model: rigModel, token_ids: prompt };
      const { timings: _one, ...first } = await dryRun(one, body);
      const { timings: _two, ...second } = await dryRun(two, body);
      expect(second).toEqual(first);
    }
  });

  it("does not choose a sleeping replica", async () => {
    const endpoints = await replicas(2);
    const [holder = "", other = ""] = endpoints;
    const rig = await rigOf({ endpoints });
    const prompt = promptOf(64, 5);
    await rig.hold(holder, prompt, 3);
    await rig.registry.setLoad(
      new Map([
        [
          holder as never,
          { waiting: 0, running: 0, kvUsage: 0, maxTokens: null, runningLoras: [], waitingLoras: [], sleeping: true, at: Date.now() },
        ],
      ]),
    );
    expect((await dryRun(rig, { model: rigModel, token_ids: prompt })).endpoint).toBe(other);
  });

  it("routes adapters to the replicas that have loaded them", async () => {
    const endpoints = await replicas(3);
    const rig = await rigOf({ endpoints });
    await describeEndpoint(rig.registry, endpoints[1] ?? "", { loras: { "sql-adapter": "/adapters/sql" } });
    await expect
      .poll(
        async () =>
          (
            await fetch(`${rig.url}/kvatlas/v1/route`, {
              method: "POST",
              body: JSON.stringify({ model: "sql-adapter", token_ids: [1, 2, 3] }),
            })
          ).status,
      )
      .toBe(200);
    expect((await dryRun(rig, { model: "sql-adapter", token_ids: [1, 2, 3] })).endpoint).toBe(endpoints[1]);
    const models = (await (await fetch(`${rig.url}/v1/models`)).json()) as { data: { id: string; parent: string | null }[] };
    expect(models.data.map(({ id, parent }) => [id, parent])).toEqual([
      [rigModel, null],
      ["sql-adapter", rigModel],
    ]);
  });

  it("names the rank where several share an address", async () => {
    const [address = ""] = await replicas(1);
    const rig = await rigOf({ endpoints: [], pool: { endpoints: { static: [{ address, dataParallelSize: 2 }] } } });
    const prompt = promptOf(64, 6);
    await describeEndpoint(rig.registry, address);
    await describeEndpoint(rig.registry, `${address}/1`, { address, rank: 1 });
    const response = await complete(rig, prompt);
    const endpoint = response.headers.get("x-kvatlas-endpoint");
    expect([address, `${address}/1`]).toContain(endpoint);
    expect(upstreams.at(-1)?.requests[0]?.headers["x-data-parallel-rank"]).toBe(endpoint === address ? "0" : "1");
  });
});

describe("mode off", () => {
  it("takes turns with round-robin", async () => {
    const endpoints = await replicas(3);
    const rig = await rigOf({ endpoints, pool: { prefixCache: { mode: "off" } }, router: { offPolicy: "round-robin" } });
    for (let i = 0; i < 6; i++) expect((await complete(rig, [1, 2, 3])).headers.get("x-kvatlas-mode")).toBe("off");
    expect(upstreams.map((upstream) => upstream.requests.length)).toEqual([2, 2, 2]);
  });
});
