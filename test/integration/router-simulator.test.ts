import { createServer } from "node:net";
import { createSimulator, type Simulator, type SimulatorOptions } from "@kvatlas/simulator/app";
import { afterEach, describe, expect, it } from "vitest";
import { startMemoryStack } from "../support/memory-stack.ts";
import { freePort } from "../support/redis-server.ts";
import { promptOf } from "../support/router-rig.ts";

const model = "org/model";
const warmUps = 20;
const closers: (() => Promise<unknown>)[] = [];

afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close();
});

interface Stack {
  readonly url: string;
  readonly replicas: readonly Simulator[];
}

async function startStack(options: SimulatorOptions, replicaCount = 3): Promise<Stack> {
  const ranks = options.dataParallelSize ?? 1;
  const replicas: Simulator[] = [];
  for (let i = 0; i < replicaCount; i++) {
    // Ranks publish at consecutive ports, which port 0 does not give.
    const ports =
      ranks === 1 ? {} : { kvEventsEndpoint: `tcp://*:${await freePortPair()}`, replayEndpoint: `tcp://*:${await freePortPair()}` };
    const replica = createSimulator({}, { model, speed: 20, ...ports, ...options });
    await replica.start();
    closers.push(() => replica.close());
    replicas.push(replica);
  }
  const { seed } = options;
  const { url } = await startMemoryStack(
    replicas,
    {
      model,
      endpoint: () => ({ dataParallelSize: ranks }),
      ...(seed === undefined || seed === null ? {} : { pool: { prefixCache: { hashSeed: seed } } }),
    },
    closers,
  );
  return { url, replicas };
}

/** A free port with a free one behind it. */
async function freePortPair(): Promise<number> {
  for (;;) {
    const port = await freePort();
    const probe = createServer();
    const isFree = await new Promise<boolean>((resolve) => {
      probe.once("error", () => resolve(false));
      probe.listen(port + 1, "127.0.0.1", () => probe.close(() => resolve(true)));
    });
    if (isFree) return port;
  }
}

interface Turn {
  readonly endpoint: string | null;
  readonly predicted: number;
  /** What the replica found in its own cache. */
  readonly cached: number;
  readonly answer: readonly number[];
}

async function complete(stack: Stack, body: { readonly prompt: readonly number[] } & Record<string, unknown>): Promise<Turn> {
  const response = await fetch(`${stack.url}/v1/completions`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ model, max_tokens: 40, ignore_eos: true, return_token_ids: true, ...body }),
  });
  expect(response.status).toBe(200);
  const answer = (await response.json()) as {
    choices: { token_ids: number[] }[];
    usage: { prompt_tokens_details: { cached_tokens: number } | null };
  };
  return {
    endpoint: response.headers.get("x-kvatlas-endpoint"),
    predicted: Number(response.headers.get("x-kvatlas-matched-tokens")),
    cached: answer.usage.prompt_tokens_details?.cached_tokens ?? 0,
    answer: answer.choices[0]?.token_ids ?? [],
  };
}

async function matched(stack: Stack, body: object): Promise<number> {
  const response = await fetch(`${stack.url}/kvatlas/v1/route`, { method: "POST", body: JSON.stringify({ model, ...body }) });
  return ((await response.json()) as { matchedTokens: number }).matchedTokens;
}

async function scopes(stack: Stack): Promise<readonly (string | null)[]> {
  const { endpoints } = (await (await fetch(`${stack.url}/kvatlas/v1/endpoints`)).json()) as { endpoints: { scope: string | null }[] };
  return endpoints.map(({ scope }) => scope);
}

describe("simulated replicas, ingester and router together", () => {
  it.each<[string, SimulatorOptions, Record<string, unknown>]>([
    ["0.32, unset seed", {}, {}],
    ["0.32, seed 42, sha256_cbor", { seed: "42", hashAlgorithm: "sha256_cbor" }, {}],
    ["0.10 with its integer hashes", { engineVersion: "0.10.1", seed: "42", hashAlgorithm: "sha256_cbor_64bit" }, {}],
    ["0.11 with a random seed: keys by content", { engineVersion: "0.11.2" }, {}],
    ["a salt", {}, { cache_salt: "tenant-1" }],
    ["a salt, 0.18", { engineVersion: "0.18", seed: "42" }, { cache_salt: "tenant-1" }],
    ["an adapter", { loraAdapters: [{ name: "sql", path: "/adapters/sql" }] }, { model: "sql" }],
    ["an adapter, 0.18", { engineVersion: "0.18", seed: "42", loraAdapters: [{ name: "sql", path: "/adapters/sql" }] }, { model: "sql" }],
    ["lookahead hashing, 0.33", { engineVersion: "0.33", lookaheadTokens: 1 }, {}],
    ["two ranks behind each address", { dataParallelSize: 2 }, {}],
    ["blocks of 64", { blockSizeTokens: 64 }, {}],
  ])("predict the replicas' own hits over the turns of chats: %s", async (_name, options, extra) => {
    const stack = await startStack(options);
    if (extra.model !== undefined) {
      await expect
        .poll(async () => ((await (await fetch(`${stack.url}/v1/models`)).json()) as { data: unknown[] }).data.length, { timeout: 10_000 })
        .toBe(2);
    }
    // Releases that hide salts make the ingester look at several prompts before it believes that a seed is random.
    for (const { url } of stack.replicas) {
      for (let i = 0; i < warmUps; i++) {
        await fetch(`${url}/v1/completions`, {
          method: "POST",
          headers: { "content-type": "application/json" },
          body: JSON.stringify({ model, prompt: promptOf(100, 500 + i), max_tokens: 1 }),
        }).then((response) => response.arrayBuffer());
      }
    }
    await expect.poll(async () => (await scopes(stack)).every((scope) => scope !== null), { timeout: 20_000 }).toBe(true);
    const blockTokens = options.blockSizeTokens ?? 16;
    const lookahead = options.lookaheadTokens ?? 0;
    for (const seed of [1, 2, 3, 4]) {
      let prompt: readonly number[] = promptOf(300 + seed, seed);
      let home: string | null = null;
      for (let turn = 0; turn < 3; turn++) {
        const { endpoint, predicted, cached, answer } = await complete(stack, { prompt, ...extra });
        expect({ seed, turn, predicted }).toEqual({ seed, turn, predicted: cached });
        if (turn > 0) expect(cached).toBeGreaterThan(0);
        home ??= endpoint;
        expect(endpoint).toBe(home);
        // The last token of an answer is never computed; releases that do not return the answer's ids leave it out of the next prompt.
        const held = Math.floor((prompt.length + Math.max(1, answer.length) - 1 - lookahead) / blockTokens) * blockTokens;
        const next: readonly number[] = [...prompt, ...answer, ...promptOf(50, 100 + 10 * seed + turn)];
        await expect.poll(() => matched(stack, { token_ids: next, ...extra }), { timeout: 10_000 }).toBe(held);
        prompt = next;
      }
    }
  });
});
