import { createModelEncoder } from "@kvatlas/router/tokenization/model-encoder";
import { systemClock } from "@kvatlas/shared/clock";
import { silentLogger } from "@kvatlas/shared/logger";
import { createSimulator, type Simulator, type SimulatorOptions } from "@kvatlas/simulator/app";
import { loadSimulatorTokenizer, type SimulatorTokenizer } from "@kvatlas/simulator/tokenizer";
import { afterEach, beforeAll, describe, expect, it } from "vitest";
import { startMemoryStack } from "../support/memory-stack.ts";
import { modelDirectory } from "../support/tokenizer-models.ts";

/*
 * Chats with images: only an engine can tell the tokens of one and the identifiers of its images, so the router asks a replica's render endpoint, and the
 * keys are those of the release.
 */

const model = "org/vision";
const directory = modelDirectory("qwen3");
const blockTokens = 16;
/** Of the images of simulated replicas. */
const imageTokens = 64;
const closers: (() => Promise<unknown>)[] = [];
let tokenizer: SimulatorTokenizer;

beforeAll(async () => {
  tokenizer = await loadSimulatorTokenizer(directory);
});
afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close();
});

interface Stack {
  readonly url: string;
  readonly replicas: readonly Simulator[];
}

async function startStack(options: SimulatorOptions, settings: { readonly router?: object; readonly pool?: object } = {}): Promise<Stack> {
  const replicas: Simulator[] = [];
  for (let i = 0; i < 3; i++) {
    const replica = createSimulator(
      { tokenizer },
      { model, speed: 20, promptTokensDetails: true, blockSizeTokens: blockTokens, ...options },
    );
    await replica.start();
    closers.push(() => replica.close());
    replicas.push(replica);
  }
  const { url } = await startMemoryStack(
    replicas,
    {
      model,
      pool: { tokenizer: { source: "remote" }, ...settings.pool },
      router: { tokenizeTimeoutMs: 20_000, renderTimeoutMs: 20_000, ...settings.router },
      createEncoder: (pool, context) =>
        createModelEncoder(pool, { ...context, clock: systemClock, logger: silentLogger, random: Math.random, env: {} }),
    },
    closers,
  );
  return { url, replicas };
}

const image = (name: string) => ({ type: "image_url", image_url: { url: `http://images.example/${name}.png` } });
const rules = "You describe pictures for people who cannot see them, in plain words, and never guess. ".repeat(12);

/** A chat about an image, a question longer each turn. */
function chatOf(name: string, turn: number): object {
  const question = "What is in the corner, and what does it stand for? ".repeat(turn * 4);
  const content = [image(name), { type: "text", text: question }];
  return {
    model,
    max_tokens: 4,
    messages: [
      { role: "system", content: rules },
      { role: "user", content },
    ],
  };
}

async function post<T>(url: string, body: object): Promise<{ readonly headers: Headers; readonly json: T }> {
  const response = await fetch(url, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) });
  const text = await response.text();
  expect(response.status, text).toBe(200);
  return { headers: response.headers, json: JSON.parse(text) as T };
}

interface Answer {
  readonly usage: { readonly prompt_tokens: number; readonly prompt_tokens_details: { readonly cached_tokens: number } | null };
}

interface Route {
  readonly endpoint: string;
  readonly mode: string;
  readonly reason: string;
  readonly matchedTokens: number;
  readonly promptTokens: number;
}

const routeOf = async (stack: Stack, body: object): Promise<Route> => (await post<Route>(`${stack.url}/kvatlas/v1/route`, body)).json;

/** Sends a chat: where it went, what the router found there, and what the replica did. */
async function ask(
  stack: Stack,
  body: object,
): Promise<{ readonly endpoint: string | null; readonly predicted: number; readonly cached: number }> {
  const { headers, json } = await post<Answer>(`${stack.url}/v1/chat/completions`, body);
  return {
    endpoint: headers.get("x-kvatlas-endpoint"),
    predicted: Number(headers.get("x-kvatlas-matched-tokens")),
    cached: json.usage.prompt_tokens_details?.cached_tokens ?? 0,
  };
}

describe("a chat with an image", () => {
  it.each([
    ["0.16", {}],
    ["0.22", {}],
    ["0.32", { enableScaleOut: true }],
    ["0.33", { enableScaleOut: true, lookaheadTokens: 2 }],
  ])("goes where its image has been computed, by the keys of release %s", async (engineVersion, options) => {
    const stack = await startStack({ engineVersion, seed: "0", ...options }, { pool: { prefixCache: { hashSeed: "0" } } });
    const first = await ask(stack, chatOf("cat", 1));
    expect(first).toMatchObject({ predicted: 0, cached: 0 });
    await expect.poll(async () => (await routeOf(stack, chatOf("cat", 1))).matchedTokens, { timeout: 20_000 }).toBeGreaterThan(200);

    // The next turn finds all of the first one, the image included, and as much as the replica finds itself.
    const next = await ask(stack, chatOf("cat", 2));
    expect(next.endpoint).toBe(first.endpoint);
    expect(next.predicted).toBe(next.cached);
    // Another image has the same tokens, and other keys: the rules before it are all that is found of it.
    const other = await routeOf(stack, chatOf("dog", 2));
    expect(other).toMatchObject({ mode: "precise", endpoint: first.endpoint });
    expect(other.matchedTokens).toBeGreaterThan(blockTokens);
    expect(next.predicted - other.matchedTokens).toBeGreaterThanOrEqual(imageTokens);
    const sent = await ask(stack, chatOf("dog", 2));
    if (sent.endpoint === first.endpoint) expect(sent.cached).toBe(other.matchedTokens);
  });

  it.each([
    ["0.18", {}],
    ["0.32", { enableScaleOut: true }],
  ])(
    "goes where its adapter has computed it, on engines of release %s that compute images anew for each adapter",
    async (engineVersion, options) => {
      const adapter = "captions";
      const stack = await startStack(
        { engineVersion, seed: "0", towerConnectorLora: true, loraAdapters: [{ name: adapter, path: "/adapters/captions" }], ...options },
        { pool: { prefixCache: { hashSeed: "0" } } },
      );
      const asked = (turn: number, name = adapter) => ({ ...chatOf("cat", turn), model: name });
      await expect.poll(async () => (await fetch(`${stack.url}/v1/models/${adapter}`)).status, { timeout: 20_000 }).toBe(200);
      const first = await ask(stack, asked(1));
      // How images are named is learned from the events of the first one.
      await expect.poll(async () => (await routeOf(stack, asked(1))).matchedTokens, { timeout: 20_000 }).toBeGreaterThan(200);
      const next = await ask(stack, asked(2));
      expect(next).toMatchObject({ endpoint: first.endpoint, predicted: next.cached });
      expect(next.predicted).toBeGreaterThan(200 + imageTokens);
      // The model itself has computed nothing of it.
      expect(await routeOf(stack, asked(2, model))).toMatchObject({ matchedTokens: 0 });
    },
  );

  it("is known by its ids and features as well", async () => {
    const stack = await startStack(
      { engineVersion: "0.32", enableScaleOut: true, seed: "0" },
      { pool: { prefixCache: { hashSeed: "0" } } },
    );
    const { endpoint } = await ask(stack, chatOf("cat", 2));
    await expect.poll(async () => (await routeOf(stack, chatOf("cat", 2))).matchedTokens, { timeout: 20_000 }).toBeGreaterThan(200);
    const expected = await routeOf(stack, chatOf("cat", 2));
    const [replica] = stack.replicas;
    const { json } = await post<{ token_ids: number[]; features: { kwargs_data: unknown } }>(
      `http://${replica?.address}/v1/chat/completions/render`,
      { ...chatOf("cat", 2), mm_payload: "none" },
    );
    expect(json.features.kwargs_data).toBeNull();
    const asked = { model, token_ids: json.token_ids, features: json.features };
    expect(await routeOf(stack, asked)).toMatchObject({ mode: "precise", endpoint, matchedTokens: expected.matchedTokens });
    // Without its features it is another prompt from the first block of the image on.
    const { matchedTokens } = await routeOf(stack, { model, token_ids: json.token_ids });
    expect(expected.matchedTokens - matchedTokens).toBeGreaterThanOrEqual(imageTokens);
  });

  it.each([
    ["no replica has render endpoints", { engineVersion: "0.32" }, {}],
    ["they are not to be asked", { engineVersion: "0.32", enableScaleOut: true }, { router: { renderTimeoutMs: 0 } }],
    [
      "only local files are to be used",
      { engineVersion: "0.32", enableScaleOut: true },
      { pool: { tokenizer: { source: "local", path: directory, threads: 1 } } },
    ],
  ])("goes by what was sent where, and says so, where %s", async (_, options, settings) => {
    const stack = await startStack({ seed: "0", ...options }, settings);
    const first = await ask(stack, chatOf("cat", 1));
    const { mode, reason } = await routeOf(stack, chatOf("cat", 1));
    expect({ mode, reason }).toEqual({ mode: expect.stringMatching(/estimated|load/), reason: "media" });
    // The estimate is by the text, image addresses among it.
    expect((await ask(stack, chatOf("cat", 1))).endpoint).toBe(first.endpoint);
  });
});
