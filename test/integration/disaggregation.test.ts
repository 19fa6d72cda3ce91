import type { EndpointId } from "@kvatlas/shared/types";
import { createSimulator, type Simulator, type SimulatorOptions } from "@kvatlas/simulator/app";
import { afterEach, describe, expect, it } from "vitest";
import { startMemoryStack } from "../support/memory-stack.ts";
import { promptOf } from "../support/router-rig.ts";

const model = "org/model";
const closers: (() => Promise<unknown>)[] = [];

afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close();
});

interface Stack {
  readonly url: string;
  readonly prefill: readonly Simulator[];
  readonly decode: readonly Simulator[];
  readonly metric: (line: string) => Promise<number>;
  /** Work that the routers have told each other of, by endpoint. */
  readonly inflight: () => Promise<ReadonlyMap<EndpointId, { readonly requests: number; readonly prefillTokens: number }>>;
}

/** Two replicas for prefill and two for decoding, an ingester and a router, over real HTTP and ZMQ. */
async function startStack(options: SimulatorOptions = {}, router: object = {}, decoders = 2): Promise<Stack> {
  const start = async (): Promise<Simulator> => {
    const replica = createSimulator({}, { model, speed: 20, kvTransfer: true, ...options });
    await replica.start();
    closers.push(() => replica.close());
    return replica;
  };
  const prefill = [await start(), await start()];
  const decode: Simulator[] = [];
  for (let i = 0; i < decoders; i++) decode.push(await start());
  const { url, adminUrl, registry } = await startMemoryStack(
    [...prefill, ...decode],
    {
      model,
      router: { decisionHeader: true, disaggregation: { minUncachedTokens: 128 }, ...router },
      endpoint: (simulator) => ({ role: prefill.includes(simulator) ? "prefill" : "decode" }),
      routerId: "r",
    },
    closers,
  );
  const stack: Stack = {
    url,
    prefill,
    decode,
    metric: async (line) => {
      const text = await (await fetch(`${adminUrl}/metrics`)).text();
      const found = text.split("\n").find((candidate) => candidate.startsWith(`${line} `));
      return found === undefined ? 0 : Number(found.slice(line.length + 1));
    },
    inflight: async () => (await registry.readLoad(["r"])).inflight,
  };
  // Every scope is known once a prompt has been seen; that of the others is the same.
  for (const simulator of [...prefill, ...decode]) {
    await fetch(`${simulator.url}/v1/completions`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ model, prompt: promptOf(40, 900), max_tokens: 1 }),
    }).then((response) => response.arrayBuffer());
  }
  // The load that was read while they ran has to be followed by one of idle replicas: what a dry run names would not be what comes next.
  await expect
    .poll(
      async () => {
        const { endpoints } = (await (await fetch(`${stack.url}/kvatlas/v1/endpoints`)).json()) as {
          endpoints: { scope: unknown; load: { waiting: number; running: number; inflightRequests: number } }[];
        };
        return endpoints.every(({ scope, load }) => scope !== null && load.waiting + load.running + load.inflightRequests === 0);
      },
      { timeout: 20_000 },
    )
    .toBe(true);
  return stack;
}

const addresses = (simulators: readonly Simulator[]): readonly string[] => simulators.map(({ address }) => address);
const ended = (simulator: Simulator) => simulator.requests().filter(({ promptTokens }) => promptTokens > 40);

interface Answer {
  readonly status: number;
  readonly decode: string | null;
  readonly prefill: string | null;
  readonly decision: string;
  readonly tokens: readonly number[];
  readonly text: string;
}

async function complete(stack: Stack, body: Readonly<Record<string, unknown>>): Promise<Answer> {
  const response = await fetch(`${stack.url}/v1/completions`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ model, max_tokens: 12, ignore_eos: true, return_token_ids: true, ...body }),
  });
  const text = await response.text();
  const json = body.stream === true ? null : (JSON.parse(text) as { choices?: { token_ids: number[] }[] });
  return {
    status: response.status,
    decode: response.headers.get("x-kvatlas-endpoint"),
    prefill: response.headers.get("x-kvatlas-prefill-endpoint"),
    decision: response.headers.get("x-kvatlas-decision") ?? "",
    tokens: json?.choices?.[0]?.token_ids ?? [],
    text,
  };
}

async function route(stack: Stack, prompt: readonly number[]) {
  const response = await fetch(`${stack.url}/kvatlas/v1/route`, { method: "POST", body: JSON.stringify({ model, prompt }) });
  return (await response.json()) as {
    endpoint: string;
    matchedTokens: number;
    division: { outcome: string; prefill: string | null; matchedTokens: number };
  };
}

describe("prefill and decoding on different replicas", () => {
  it("computes a long prompt on one kind and answers from the other, as one replica alone would", async () => {
    const stack = await startStack();
    const prompt = promptOf(600, 1);
    const answer = await complete(stack, { prompt });
    expect(answer.status).toBe(200);
    expect(addresses(stack.prefill)).toContain(answer.prefill);
    expect(addresses(stack.decode)).toContain(answer.decode);
    expect(answer.decision).toMatch(new RegExp(`; divided prefill ${answer.prefill} score=\\S+ .*; ${answer.decode} score=`));
    const alone = createSimulator({}, { model, speed: 20 });
    await alone.start();
    closers.push(() => alone.close());
    expect(answer.tokens).toEqual((await complete({ ...stack, url: alone.url }, { prompt })).tokens);
    const [prefilled] = stack.prefill.flatMap(ended);
    const [decoded] = stack.decode.flatMap(ended);
    expect(prefilled).toMatchObject({ promptTokens: 600, cachedTokens: 0, generatedTokens: 1, finishReason: "length" });
    expect(decoded).toMatchObject({ promptTokens: 600, cachedTokens: 599, generatedTokens: 12, finishReason: "length" });
    expect(stack.prefill.map(({ replica }) => replica.kept.size)).toEqual([0, 0]);
    expect(await stack.metric('kvatlas_router_divisions_total{outcome="divided"}')).toBe(1);
    expect(await stack.metric('kvatlas_router_prefill_steps_total{result="handed"}')).toBe(1);
    await expect.poll(async () => (await stack.inflight()).size, { timeout: 5_000 }).toBe(0);
  });

  it("streams", async () => {
    const stack = await startStack();
    const { text, prefill } = await complete(stack, { prompt: promptOf(600, 2), stream: true });
    expect(prefill).not.toBeNull();
    expect(text.match(/^data: \{/gm)).toHaveLength(12);
    expect(text.endsWith("data: [DONE]\n\n")).toBe(true);
  });

  it("goes to the replica for prefill that holds the prefix, and stays where the answer was when little is new", async () => {
    const stack = await startStack();
    const shared = promptOf(480, 3);
    const first = await complete(stack, { prompt: [...shared, ...promptOf(200, 30)] });
    await expect
      .poll(async () => (await route(stack, [...shared, ...promptOf(200, 31)])).division.matchedTokens, { timeout: 10_000 })
      .toBe(480);
    const dry = await route(stack, [...shared, ...promptOf(200, 31)]);
    expect(dry.division).toMatchObject({ outcome: "divided", prefill: first.prefill });
    const second = await complete(stack, { prompt: [...shared, ...promptOf(200, 31)] });
    expect(second.prefill).toBe(first.prefill);

    const history = [...shared, ...promptOf(200, 30), ...first.tokens];
    await expect.poll(async () => (await route(stack, history)).matchedTokens, { timeout: 10_000 }).toBeGreaterThan(650);
    const third = await complete(stack, { prompt: [...history, ...promptOf(60, 32)] });
    expect(third).toMatchObject({ status: 200, prefill: null, decode: first.decode });
    expect(third.decision).toMatch(/; short; /);
  });

  it.each([
    ["a short prompt", { prompt: promptOf(100, 4) }, "short"],
    ["several answers", { prompt: promptOf(600, 5), n: 2 }, "indivisible"],
    ["several prompts", { prompt: [promptOf(600, 6), promptOf(600, 7)] }, "indivisible"],
  ])("leaves %s to one replica, and never one for prefill", async (_name, body, outcome) => {
    const stack = await startStack();
    const answer = await complete(stack, body);
    expect(answer).toMatchObject({ status: 200, prefill: null });
    expect(addresses(stack.decode)).toContain(answer.decode);
    expect(stack.prefill.flatMap(ended)).toEqual([]);
    expect(await stack.metric(`kvatlas_router_divisions_total{outcome="${outcome}"}`)).toBe(1);
  });

  it("tries another replica for prefill when one fails, and computes the whole when none hands anything over", async () => {
    const stack = await startStack();
    const prompt = promptOf(600, 8);
    const { division } = await route(stack, prompt);
    const [best, other] = division.prefill === stack.prefill[0]?.address ? stack.prefill : [...stack.prefill].reverse();
    await best?.applyFaults({ failNext: { status: 500, count: 1 } });
    expect(await complete(stack, { prompt })).toMatchObject({ status: 200, prefill: other?.address });
    await Promise.all(stack.prefill.map((simulator) => simulator.close()));
    const answer = await complete(stack, { prompt: promptOf(600, 9) });
    expect(answer).toMatchObject({ status: 200, prefill: null });
    expect(answer.tokens).toHaveLength(12);
    expect(await stack.metric('kvatlas_router_prefill_steps_total{result="failed"}')).toBe(1);
    expect(await stack.metric('kvatlas_router_prefill_steps_total{result="unreachable"}')).toBeGreaterThan(0);
  });

  it.each([2, 1])("lets a replica compute the whole when one that decodes cannot load what was handed over, of %d", async (decoders) => {
    const stack = await startStack({ kvLoadFailure: "fail", kvTransferTtlMs: 0 }, {}, decoders);
    // Blocks are gone as soon as they are handed over.
    const prompt = promptOf(600, 10);
    const lost = await complete(stack, { prompt });
    expect(lost).toMatchObject({ status: 200, prefill: null });
    expect(await stack.metric('kvatlas_router_retries_total{why="unavailable"}')).toBe(1);
    expect(lost.tokens).toHaveLength(12);
  });

  it("tries another replica for decoding when the first is gone", async () => {
    const stack = await startStack();
    const prompt = promptOf(600, 11);
    const { endpoint } = await route(stack, prompt);
    const [gone, left] = stack.decode[0]?.address === endpoint ? stack.decode : [...stack.decode].reverse();
    await gone?.close();
    const answer = await complete(stack, { prompt });
    expect(answer).toMatchObject({ status: 200, decode: left?.address });
    // Nothing had been fetched: what was handed over still counts.
    expect(answer.prefill).not.toBeNull();
    expect(left?.requests().at(-1)?.cachedTokens).toBe(599);
  });

  it.each(["prefill", "decode"] as const)("ends the work of both replicas when the client leaves during %s", async (step) => {
    const stack = await startStack();
    const held = step === "prefill" ? stack.prefill : stack.decode;
    for (const simulator of held) await simulator.applyFaults({ hang: true });
    const leaving = new AbortController();
    const asking = fetch(`${stack.url}/v1/completions`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ model, prompt: promptOf(600, 12), max_tokens: 50, ignore_eos: true, stream: true }),
      signal: leaving.signal,
    });
    const refused = expect(asking).rejects.toThrow();
    const busy = () => held.reduce((sum, simulator) => sum + simulator.load().running + simulator.load().waiting, 0);
    await expect.poll(busy, { timeout: 10_000 }).toBe(1);
    // Other routers see both: the prompt where it is computed, the answer where it will be.
    await expect.poll(async () => (await stack.inflight()).size, { timeout: 5_000 }).toBe(step === "prefill" ? 2 : 1);
    leaving.abort();
    await refused;
    await expect.poll(busy, { timeout: 10_000 }).toBe(0);
    await expect.poll(async () => (await stack.inflight()).size, { timeout: 5_000 }).toBe(0);
    await expect.poll(() => stack.metric('kvatlas_router_requests_total{outcome="client-gone",status="none"}'), { timeout: 5_000 }).toBe(1);
    if (step === "prefill") expect(await stack.metric('kvatlas_router_prefill_steps_total{result="client-gone"}')).toBe(1);
  });

  it("gives up a prefill step that takes too long", async () => {
    const stack = await startStack({}, { disaggregation: { minUncachedTokens: 128, prefillTimeoutMs: 100 } });
    for (const simulator of stack.prefill) await simulator.applyFaults({ hang: true });
    expect(await complete(stack, { prompt: promptOf(600, 13) })).toMatchObject({ status: 200, prefill: null });
    expect(await stack.metric('kvatlas_router_prefill_steps_total{result="timeout"}')).toBe(1);
  });
});
