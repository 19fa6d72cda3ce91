import { createMemoryBackend } from "@kvatlas/shared/backend";
import { createLogger } from "@kvatlas/shared/logger";
import { afterEach, describe, expect, it } from "vitest";
import { answerOk, type HttpUpstream, startUpstream, type UpstreamHandler } from "../support/http-upstream.ts";
import { describeEndpoint, promptOf, type Rig, type RigOptions, rigModel, startRig } from "../support/router-rig.ts";

const upstreams: HttpUpstream[] = [];
const rigs: Rig[] = [];

afterEach(async () => {
  await Promise.all(rigs.splice(0).map((rig) => rig.router.close()));
  await Promise.all(upstreams.splice(0).map((upstream) => upstream.kill()));
});

async function replicas(n: number, handler: UpstreamHandler = answerOk): Promise<string[]> {
  const started = await Promise.all(Array.from({ length: n }, () => startUpstream(handler)));
  upstreams.push(...started);
  return started.map(({ address }) => address);
}

async function rigOf(options: RigOptions): Promise<Rig> {
  const rig = await startRig(options);
  rigs.push(rig);
  return rig;
}

interface Answer {
  readonly mode: string | null;
  readonly endpoint: string | null;
  readonly matched: number;
}

async function post(rig: Rig, path: string, body: object): Promise<Answer> {
  const response = await fetch(`${rig.url}${path}`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ model: rigModel, ...body }),
  });
  await response.arrayBuffer();
  return {
    mode: response.headers.get("x-kvatlas-mode"),
    endpoint: response.headers.get("x-kvatlas-endpoint"),
    matched: Number(response.headers.get("x-kvatlas-matched-tokens")),
  };
}

const complete = (rig: Rig, prompt: readonly number[]) => post(rig, "/v1/completions", { prompt });
const chat = (rig: Rig, ...contents: string[]) =>
  post(rig, "/v1/chat/completions", { messages: contents.map((content) => ({ role: "user", content })) });

describe.each(["estimated", "estimate", "PREFIX_CACHE"])("mode %s", (mode) => {
  it("follows what any router sent where, without events", async () => {
    const endpoints = await replicas(4);
    const backend = createMemoryBackend();
    const options = { endpoints, backend, pool: { prefixCache: { mode } } };
    const one = await rigOf({ ...options, routerId: "one" });
    const two = await rigOf({ ...options, routerId: "two" });
    for (let seed = 1; seed <= 8; seed++) {
      const first = await complete(one, promptOf(640, seed));
      expect(first).toMatchObject({ mode: "estimated", matched: 0 });
      expect(await complete(two, promptOf(700, seed))).toEqual({ mode: "estimated", endpoint: first.endpoint, matched: 640 });
    }
    expect(await two.metric('kvatlas_router_decisions_total{mode="estimated",reason="prefix"}')).toBe(8);
    expect(await one.metric('kvatlas_router_history_routings_total{outcome="ok"}')).toBe(8);
  });
});

describe("mode estimated", () => {
  const pool = { prefixCache: { mode: "estimated" } };

  it("says how much matches, and leaves it to load where that is too little", async () => {
    const lines: string[] = [];
    const logger = createLogger({ service: "router", destination: { write: (line) => void lines.push(line) } });
    const rig = await rigOf({ endpoints: await replicas(2), pool, logger });
    const prompt = promptOf(640, 1);
    await complete(rig, prompt);
    await complete(rig, [...prompt, ...promptOf(64 * 7, 9)]);
    expect(lines.some((line) => line.includes("do prefix-aware routing") && line.includes("matching ratio: 0.59 > 0.50"))).toBe(true);
    await complete(rig, [...prompt.slice(0, 64 * 5), ...promptOf(64 * 5, 7)]);
    expect(await rig.metric('kvatlas_router_decisions_total{mode="estimated",reason="low-match"}')).toBe(1);
  });

  it("goes by the prompt's text where there is no tokenizer", async () => {
    const rig = await rigOf({ endpoints: await replicas(4), pool });
    const text = Array.from({ length: 600 }, (_, i) => `word${i}`).join(" ");
    const first = await chat(rig, text);
    expect(await chat(rig, text, "and now?")).toMatchObject({ mode: "estimated", endpoint: first.endpoint });
    expect((await chat(rig, text, "and now?")).matched).toBeGreaterThan(900);
  });

  it("forgets what was sent to a process that is no longer there", async () => {
    const [endpoint = ""] = await replicas(1);
    const rig = await rigOf({ endpoints: [endpoint], pool });
    const prompt = promptOf(640, 1);
    await complete(rig, prompt);
    expect((await complete(rig, prompt)).matched).toBe(640);
    await describeEndpoint(rig.registry, endpoint, { processStartSeconds: Date.now() / 1_000 + 60 });
    await expect.poll(async () => (await complete(rig, prompt)).matched).toBe(0);
  });

  it("forgets what a replica refused or could not answer", async () => {
    const [broken = ""] = await replicas(1, (response) => void response.writeHead(500).end("{}"));
    const rig = await rigOf({ endpoints: [broken], pool });
    const prompt = promptOf(640, 1);
    await complete(rig, prompt);
    expect((await complete(rig, prompt)).matched).toBe(0);
  });
});

describe("mode precise", () => {
  it("goes by what was sent to replicas whose events nobody hears, and says so", async () => {
    const [indexed = "", blind = ""] = await replicas(2);
    const rig = await rigOf({ endpoints: [indexed, blind], router: { speculationMs: 0 } });
    await rig.hold(indexed, promptOf(640, 1), 1);
    await expect.poll(async () => (await complete(rig, promptOf(640, 1))).mode).toBe("precise");
    let prompt: readonly number[] = [];
    let seed = 10;
    // Cold prompts go to either.
    await expect
      .poll(async () => {
        prompt = promptOf(640, seed++);
        return (await complete(rig, prompt)).endpoint;
      })
      .toBe(blind);
    expect(await complete(rig, prompt)).toEqual({ mode: "estimated", endpoint: blind, matched: 576 });
    expect(await rig.metric('kvatlas_router_decisions_total{mode="estimated",reason="endpoint-not-indexed"}')).toBe(1);
  });

  it("goes by text where prompts cannot be tokenized", async () => {
    const rig = await rigOf({ endpoints: await replicas(4) });
    const text = "a long story ".repeat(200);
    const first = await chat(rig, text);
    expect(first.mode).toBe("load");
    expect(await chat(rig, text, "next")).toMatchObject({ mode: "estimated", endpoint: first.endpoint });
    expect(await rig.metric('kvatlas_router_decisions_total{mode="estimated",reason="no-tokenizer"}')).toBe(1);
  });
});

describe("speculation", () => {
  it("lets the siblings of a request follow it through any router, before any event", async () => {
    const endpoints = await replicas(4);
    const backend = createMemoryBackend();
    const one = await rigOf({ endpoints, backend, routerId: "one" });
    const two = await rigOf({ endpoints, backend, routerId: "two" });
    for (const endpoint of endpoints) await one.hold(endpoint, promptOf(64, 99), 1);
    const prefix = promptOf(3_200, 1);
    const sibling = (i: number) => complete(i % 2 === 0 ? one : two, [...prefix, ...promptOf(160, 100 + i)]);
    await expect.poll(async () => (await complete(one, promptOf(64, 99))).mode).toBe("precise");
    await expect.poll(async () => (await complete(two, promptOf(64, 99))).mode).toBe("precise");
    const first = await sibling(0);
    const rest = await Promise.all(Array.from({ length: 19 }, (_, i) => sibling(i + 1)));
    for (const { endpoint, matched } of rest) {
      expect(endpoint).toBe(first.endpoint);
      expect(matched).toBeGreaterThan(0.9 * 3_200);
    }
    expect(await two.metric('kvatlas_router_decisions_total{mode="precise",reason="speculated"}')).toBeGreaterThanOrEqual(10);
  });

  it("ends with a request that fails", async () => {
    const endpoints = await replicas(2, (response) => void response.writeHead(500).end("{}"));
    const rig = await rigOf({ endpoints });
    for (const endpoint of endpoints) await rig.hold(endpoint, promptOf(64, 99), 1);
    await expect.poll(async () => (await complete(rig, promptOf(64, 99))).mode).toBe("precise");
    await complete(rig, promptOf(3_200, 1));
    expect(await complete(rig, promptOf(3_200, 1))).toMatchObject({ mode: "precise", matched: 0 });
  });
});

describe("how decisions turn out", () => {
  it("is counted against what the engine reports, and told to whoever asks", async () => {
    const usage = { prompt_tokens: 640, prompt_tokens_details: { cached_tokens: 592 } };
    const endpoints = await replicas(1, (response) => {
      response.writeHead(200, { "content-type": "text/event-stream" });
      response.write("data: {}\n\n");
      response.end(`data: ${JSON.stringify({ choices: [], usage })}\n\ndata: [DONE]\n\n`);
    });
    const backend = createMemoryBackend();
    const rig = await rigOf({ endpoints, backend, routerId: "one", pool: { prefixCache: { mode: "estimated" } } });
    await complete(rig, promptOf(640, 1));
    await complete(rig, promptOf(640, 1));
    await expect.poll(() => rig.metric('kvatlas_router_predictions_total{result="over"}')).toBe(1);
    expect(await rig.metric('kvatlas_router_predictions_total{result="under"}')).toBe(1);
    expect(await rig.metric('kvatlas_router_prediction_tokens_total{source="reported"}')).toBe(2 * 592);
    await expect
      .poll(async () => (await backend.quality.read(["one"])).get("one"), { timeout: 10_000 })
      .toMatchObject({ estimated: 2, promptTokens: 1_280, matchedTokens: 640, compared: 2, predictedTokens: 640, over: 1, under: 1 });
  });
});
