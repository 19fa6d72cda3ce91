import { asksReplicas } from "@kvatlas/router/tokenization/asks-replicas";
import { createModelEncoder } from "@kvatlas/router/tokenization/model-encoder";
import { createRemoteEncoder } from "@kvatlas/router/tokenization/remote-encoder";
import { TokenizerMetrics } from "@kvatlas/router/tokenization/tokenizer-metrics";
import { systemClock } from "@kvatlas/shared/clock";
import { configSchema, type PoolConfig } from "@kvatlas/shared/config/schema";
import { silentLogger } from "@kvatlas/shared/logger";
import { createMetricsRegistry } from "@kvatlas/shared/metrics";
import { createLocalPromptEncoder } from "@kvatlas/shared/tokenization/local-prompt-encoder";
import type { PromptEncoder, PromptRequest } from "@kvatlas/shared/tokenization/prompt-encoder";
import { createSimulator, type Simulator, type SimulatorOptions } from "@kvatlas/simulator/app";
import { loadSimulatorTokenizer, type SimulatorTokenizer } from "@kvatlas/simulator/tokenizer";
import { afterEach, beforeAll, describe, expect, it } from "vitest";
import { startUpstream } from "../support/http-upstream.ts";
import { startRig } from "../support/router-rig.ts";
import { modelDirectory } from "../support/tokenizer-models.ts";

const model = "org/model";
const directory = modelDirectory("qwen3");
const requests: readonly PromptRequest[] = [
  { kind: "chat", bodyText: JSON.stringify({ model, messages: [{ role: "user", content: "Größer? 更大的呢？ 🐋" }] }) },
  {
    kind: "chat",
    bodyText: `{"model":"${model}","messages":[{"role":"user","content":"x"}],"tools":[{"type":"function","function":{"name":"f","parameters":{"minimum":1.0}}}],"chat_template_kwargs":{"enable_thinking":false}}`,
  },
  { kind: "completion", bodyText: JSON.stringify({ model, prompt: "  a b\n" }) },
];

let tokenizer: SimulatorTokenizer;
const closers: (() => Promise<unknown>)[] = [];

beforeAll(async () => {
  tokenizer = await loadSimulatorTokenizer(directory);
});
afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close();
});

async function startReplica(options: SimulatorOptions = {}): Promise<Simulator> {
  const replica = createSimulator({ tokenizer }, { model, ...options });
  await replica.start();
  closers.push(() => replica.close());
  return replica;
}

function remote(addresses: readonly string[]): PromptEncoder {
  const encoder = createRemoteEncoder({ addresses: () => addresses, clock: systemClock });
  closers.push(() => encoder.close());
  return encoder;
}

async function idsOf(encoder: PromptEncoder, request: PromptRequest): Promise<readonly number[][]> {
  return (await encoder.encode(request)).map(({ tokenIds }) => [...tokenIds]);
}

describe("prompts that replicas encode", () => {
  it.each([
    ["by their render endpoints", { engineVersion: "0.32", enableScaleOut: true }],
    ["by /tokenize where those are closed", { engineVersion: "0.32", enableScaleOut: false }],
  ] as const)("are those encoded here, %s", async (_, options) => {
    const replica = await startReplica(options);
    const local = createLocalPromptEncoder({ directory });
    const encoder = remote([replica.address]);
    for (const request of requests) expect(await idsOf(encoder, request)).toEqual(await idsOf(local, request));
    await local.close();
  });

  it("come as lists where the request has a list", async () => {
    const replica = await startReplica({ engineVersion: "0.32", enableScaleOut: true });
    const list: PromptRequest = { kind: "completion", bodyText: JSON.stringify({ model, prompt: ["a b", "c"] }) };
    expect(await idsOf(remote([replica.address]), list)).toHaveLength(2);
  });

  it.each([
    ["messages", "/v1/messages/render"],
    ["responses", "/v1/responses/render"],
  ] as const)("are asked for by requests of other APIs where there is an endpoint for those: %s", async (kind, path) => {
    const bodyText = JSON.stringify({ model, input: "hi", tools: [] });
    const asked: unknown[] = [];
    const upstream = await startUpstream(async (response, { url, body }) => {
      asked.push([url, JSON.parse(String(body))]);
      const isThere = url === path && asked.length > 1;
      response.writeHead(isThere ? 200 : 404, { "content-type": "application/json" });
      response.end(JSON.stringify(isThere ? { token_ids: [5, 6], features: null } : { detail: "Not Found" }));
    });
    closers.push(() => upstream.kill());
    // Where it is missing, nothing else is asked, and other render endpoints are not given up for it.
    const unable = remote([upstream.address]);
    const request: PromptRequest = { kind, bodyText, engineOnly: true };
    for (let i = 0; i < 2; i++) await expect(unable.encode(request)).rejects.toMatchObject({ code: "KVATLAS_TOKENIZER_UNAVAILABLE" });
    expect(asked).toEqual([[path, { model, input: "hi", tools: [], mm_payload: "none" }]]);
    expect(await idsOf(remote([upstream.address]), request)).toEqual([[5, 6]]);
  });

  it("do not wait for images that a replica looks at", async () => {
    const waiting: (() => void)[] = [];
    const upstream = await startUpstream(async (response, { body }) => {
      if (String(body).includes("image_url")) await new Promise<void>((resolve) => waiting.push(resolve));
      response.writeHead(200, { "content-type": "application/json" }).end(JSON.stringify({ token_ids: [5, 6], features: null }));
    });
    closers.push(() => upstream.kill());
    const encoder = remote([upstream.address]);
    const image: PromptRequest = { kind: "chat", bodyText: '{"messages":[{"content":[{"type":"image_url"}]}]}', engineOnly: true };
    const images = Array.from({ length: 20 }, () => idsOf(encoder, image));
    await expect.poll(() => waiting.length).toBe(16);
    expect(await idsOf(encoder, requests[0] as PromptRequest)).toEqual([[5, 6]]);
    for (let done = 0; done < images.length; done++) {
      await expect.poll(() => waiting.length).toBeGreaterThan(0);
      waiting.shift()?.();
    }
    expect(await Promise.all(images)).toHaveLength(20);
  });

  it("are asked of another replica when one is gone", async () => {
    const [gone, alive] = [await startReplica(), await startReplica()];
    const { address } = gone;
    await gone.close();
    const encoder = remote([address, alive.address]);
    for (let i = 0; i < 4; i++) expect(await idsOf(encoder, requests[0] as PromptRequest)).toHaveLength(1);
  });

  it("are refused where no replica can be asked, and as the engine refuses them", async () => {
    await expect(remote([]).encode(requests[0] as PromptRequest)).rejects.toMatchObject({ code: "KVATLAS_TOKENIZER_UNAVAILABLE" });
    const replica = await startReplica();
    const invalid = remote([replica.address]).encode({ kind: "chat", bodyText: JSON.stringify({ model, messages: [{ role: 1 }] }) });
    await expect(invalid).rejects.toMatchObject({ code: "KVATLAS_PROMPT_INVALID" });
  });
});

it("replicas that have no endpoints for prompts are not asked again for a while, one that does not know the model is", async () => {
  const plain = await startUpstream(
    (response) => void response.writeHead(404, { "content-type": "application/json" }).end('{"detail":"Not Found"}'),
  );
  const picky = await startUpstream((response) => {
    response.writeHead(404, { "content-type": "application/json" }).end('{"error":{"message":"The model `x` does not exist."}}');
  });
  closers.push(
    () => plain.kill(),
    () => picky.kill(),
  );
  for (const [upstream, questions] of [
    [plain, ["/v1/completions/render", "/tokenize"]],
    [picky, ["/v1/completions/render", "/tokenize", "/tokenize"]],
  ] as const) {
    const encoder = remote([upstream.address]);
    for (let i = 0; i < 2; i++) {
      await expect(encoder.encode(requests[2] as PromptRequest)).rejects.toMatchObject({ code: "KVATLAS_TOKENIZER_UNAVAILABLE" });
    }
    expect(upstream.requests.map(({ url }) => url)).toEqual(questions);
  }
});

describe("a tokenizer with source auto", () => {
  function pool(tokenizerSection: object, prefixCache: object = {}): PoolConfig {
    const parsed = configSchema.parse({
      pools: [{ name: "p", model, tokenizer: { threads: 1, engine: "javascript", ...tokenizerSection }, prefixCache }],
    });
    return parsed.pools[0] as PoolConfig;
  }

  async function start(tokenizerSection: object, chatTemplate?: string) {
    const replica = await startReplica();
    const registry = createMetricsRegistry("router", { processMetrics: false });
    const findings: string[] = [];
    const encoder = createModelEncoder(pool(tokenizerSection), {
      addresses: () => [replica.address],
      metrics: new TokenizerMetrics(registry),
      clock: systemClock,
      logger: silentLogger,
      random: () => 0,
      env: {},
      onFinding: (text) => findings.push(text),
      ...(chatTemplate === undefined ? {} : { chatTemplate }),
    });
    if (encoder === null) throw new Error("no encoder");
    closers.push(() => encoder.close());
    const metric = async (line: string): Promise<number> => {
      const found = (await registry.metrics()).split("\n").find((candidate) => candidate.startsWith(`${line} `));
      return found === undefined ? 0 : Number(found.slice(line.length + 1));
    };
    return { encoder, metric, findings };
  }

  it("stays local while replicas agree", async () => {
    const { encoder, metric, findings } = await start({ path: directory });
    await idsOf(encoder, requests[0] as PromptRequest);
    await expect.poll(() => metric('kvatlas_router_tokenizer_audits_total{pool="p",result="agree"}'), { timeout: 20_000 }).toBe(4);
    expect(await metric('kvatlas_router_tokenizer_source{pool="p",source="local"}')).toBe(1);
    expect(findings).toEqual([]);
  });

  it("goes over to the replicas when they encode otherwise", async () => {
    const { encoder, metric, findings } = await start({ path: directory }, "{{ messages[0].content }}");
    const [first] = requests as [PromptRequest];
    const mine = await idsOf(encoder, first);
    await expect.poll(() => metric('kvatlas_router_tokenizer_source{pool="p",source="remote"}'), { timeout: 20_000 }).toBe(1);
    expect(await metric('kvatlas_router_tokenizer_audits_total{pool="p",result="disagree"}')).toBe(1);
    expect(findings).toEqual([expect.stringContaining("disagree: replicas encode the prompts of this pool")]);
    const local = createLocalPromptEncoder({ directory });
    const theirs = await idsOf(encoder, first);
    expect(theirs).not.toEqual(mine);
    expect(theirs).toEqual(await idsOf(local, first));
    await local.close();
  });

  it("asks the replicas where there is nothing to encode with, if the pool is precise", async () => {
    const { encoder, metric } = await start({});
    expect(await metric('kvatlas_router_tokenizer_source{pool="p",source="remote"}')).toBe(1);
    const local = createLocalPromptEncoder({ directory });
    for (const request of requests) expect(await idsOf(encoder, request)).toEqual(await idsOf(local, request));
    await local.close();
    expect(
      [pool({}), pool({}, { mode: "estimated" }), pool({ source: "local" }), pool({ source: "remote" }, { mode: "estimated" })].map(
        asksReplicas,
      ),
    ).toEqual([true, false, false, true]);
  });

  it("asks the replicas when the files cannot be loaded, and is ready", async () => {
    const { encoder, metric } = await start({ path: "/nonexistent" });
    await encoder.ready;
    expect(await metric('kvatlas_router_tokenizer_source{pool="p",source="remote"}')).toBe(1);
    expect(await idsOf(encoder, requests[2] as PromptRequest)).toHaveLength(1);
  });
});

it("sends its ids along with chats where the pool asks for it", async () => {
  const replica = await startReplica({ engineVersion: "0.32", promptTokensDetails: true });
  const upstream = await startUpstream(async (response, { url, body }) => {
    const init = { method: "POST", body, headers: { "content-type": "application/json" } };
    const answer = await fetch(`http://${replica.address}${url}`, init);
    response.writeHead(answer.status, { "content-type": "application/json" }).end(await answer.text());
  });
  closers.push(() => upstream.kill());
  const encoder = createLocalPromptEncoder({ directory });
  const rig = await startRig({
    endpoints: [upstream.address],
    encoder,
    pool: { model, tokenizer: { path: directory, forwardTokenIds: true } },
  });
  closers.push(() => rig.router.close());
  const bodyText = `{"model":"${model}","messages":[{"role":"user","content":"Größer?"}],"temperature":1.0,"max_tokens":2,"return_token_ids":true}`;
  // Loads the tokenizer, too.
  const [ids] = await idsOf(encoder, { kind: "chat", bodyText });
  const answer = await fetch(`${rig.url}/v1/chat/completions`, {
    method: "POST",
    body: bodyText,
    headers: { "content-type": "application/json" },
  });
  expect(answer.status).toBe(200);
  expect(upstream.requests.map(({ body }) => body.toString("utf8"))).toEqual([
    `{"kv_transfer_params":{"prompt_token_ids":[${ids?.join(",")}]},${bodyText.slice(1)}`,
  ]);
  expect(await answer.json()).toMatchObject({ prompt_token_ids: ids });
});
