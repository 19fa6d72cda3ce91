import { setTimeout as wait } from "node:timers/promises";
import { createRouter } from "@kvatlas/router/app";
import { routeOfModel } from "@kvatlas/router/fleet/fleet";
import { FleetView } from "@kvatlas/router/fleet/fleet-view";
import { InflightTracker } from "@kvatlas/router/fleet/inflight-tracker";
import { LoadReader } from "@kvatlas/router/fleet/load-reader";
import { OutlierEjection } from "@kvatlas/router/fleet/outlier-ejection";
import { Decider } from "@kvatlas/router/routing/decide";
import { KeyMemory } from "@kvatlas/router/routing/key-memory";
import { createPolicy } from "@kvatlas/router/routing/policies/create-policy";
import { PromptKeys } from "@kvatlas/router/routing/prompt-keys";
import { VerifyLookup } from "@kvatlas/router/routing/verify-lookup";
import { type Backend, createRedisBackend } from "@kvatlas/shared/backend";
import { systemClock } from "@kvatlas/shared/clock";
import { configSchema, type KvatlasConfig } from "@kvatlas/shared/config/schema";
import { createBlockHasher } from "@kvatlas/shared/hashing/block-hasher";
import { scopeIdOf } from "@kvatlas/shared/hashing/key-scheme";
import { createRedisKeys, scopeTag } from "@kvatlas/shared/index/redis-keys";
import { silentLogger } from "@kvatlas/shared/logger";
import { createMetricsRegistry } from "@kvatlas/shared/metrics";
import type { BlockKey, EndpointId } from "@kvatlas/shared/types";
import { Redis } from "ioredis";
import { startRedisServer } from "../support/redis-server.ts";

const model = "bench/model";
const blockTokens = 16;
const promptBlocks = 750;
/** Blocks that a later turn adds to a prompt. */
const turnBlocks = 12;
const endpointCount = 8;
const prompts = 200;
const warmUps = 30;
const scheme = { kind: "native", algorithm: "sha256_cbor", seed: "0" } as const;

/** Decisions per second of the open loop: modest, so that latency is measured and not queueing. */
const openLoopRate = 60;

interface Timings {
  readonly keysMs: number;
  readonly lookupMs: number;
  readonly totalMs: number;
}

/**
 * A decision without tokenization (keys, lookup and load, score) over Redis on the same machine: prompts of 12,000 token ids, of which endpoint k of 8 holds
 * k eighths. `cold`: never seen; `remembered`: the next turn of the same chats. Time is what the decision itself reports.
 *
 * `decider`: the router's decider alone, in this process, in an open loop at a modest rate, with all that a proxied request leaves behind (speculation,
 * history); `rememberedBackToBack` without the pauses, in which a processor's caches and clock go down. `routeApi`: dry runs through the HTTP API of a router
 * in this process, one after the other, which share the process with the client and its JSON.
 *
 * Two floors beside it, in the same run: a PING at the same modest rate, which is what one round trip takes on this machine when nothing else is done; and a
 * pipeline that reads every key of the same prompts.
 */
export async function run(): Promise<object> {
  const server = await startRedisServer();
  const config = configSchema.parse({
    redis: { url: server.url, commandTimeoutMs: 1_000 },
    pools: [{ name: "bench", model, endpoints: { static: endpointIds().map((address) => ({ address })) } }],
    // Nobody sends signs of life for the endpoints.
    router: { listen: "127.0.0.1:0", admin: "127.0.0.1:0", lookupTimeoutMs: 1_000, verifySampleRate: 0, endpointTtlMs: 3_600_000 },
  });
  const writing = createRedisBackend(config.redis, "background", silentLogger);
  const backend = createRedisBackend(config.redis, "request", silentLogger);
  const router = createRouter(
    {
      index: backend.index,
      registry: backend.registry,
      logger: silentLogger,
      metricsRegistry: createMetricsRegistry("router"),
      createEncoder: () => null,
    },
    config,
  );
  try {
    const chains = Array.from({ length: prompts + warmUps }, (_, i) => chainOf(i));
    await fill(writing, chains);
    await backend.connected(10_000);
    await router.start();
    const decide = async (tokenIds: readonly number[]): Promise<Timings> => {
      const response = await fetch(`http://${router.address}/kvatlas/v1/route`, {
        method: "POST",
        body: JSON.stringify({ model, token_ids: tokenIds }),
      });
      const answer = (await response.json()) as { mode: string; reason: string; matchedTokens: number; timings: Timings };
      if (answer.mode !== "precise" || answer.matchedTokens === 0)
        throw new Error(`the decision was not precise: ${JSON.stringify(answer)}`);
      return answer.timings;
    };
    for (const chain of chains.slice(prompts)) {
      await decide(chain.first);
      await decide(chain.next);
    }
    const measured = chains.slice(0, prompts);
    const cold: Timings[] = [];
    for (const chain of measured) cold.push(await decide(chain.first));
    const remembered: Timings[] = [];
    for (const chain of measured) remembered.push(await decide(chain.next));
    const decider = await measureDecider(backend, config, chains);
    const ping = await pingEvery(server.url);
    const floor = await readEveryKey(
      server.url,
      measured.map((chain) => chain.keys),
    );
    return {
      promptTokens: promptBlocks * blockTokens + 1,
      blocks: promptBlocks,
      endpoints: endpointCount,
      decisions: prompts,
      decider,
      routeApi: { cold: summary(cold), remembered: summary(remembered) },
      floorPingMs: percentiles(ping),
      floorEveryKeyMs: percentiles(floor),
    };
  } finally {
    await router.close();
    await backend.close();
    await writing.close();
    await server.stop();
  }
}

async function measureDecider(backend: Backend, config: KvatlasConfig, chains: readonly Chain[]): Promise<object> {
  const { index, registry, history } = backend;
  const deps = { registry, clock: systemClock, logger: silentLogger };
  const fleet = new FleetView(deps, { routerId: "decider", pools: config.pools, endpointTtlMs: 600_000 });
  await fleet.start();
  const decider = new Decider(
    {
      index,
      history,
      loads: new LoadReader(registry, systemClock),
      inflight: new InflightTracker(deps, { routerId: "decider" }),
      ejection: new OutlierEjection(systemClock),
      keys: new PromptKeys(new KeyMemory()),
      policy: createPolicy(config.router),
      verify: new VerifyLookup({ index, logger: silentLogger, random: () => 1, onCompared: () => {} }, 0),
      sources: { next: () => 0, random: () => 0 },
      clock: systemClock,
      logger: silentLogger,
      onDecided: () => {},
    },
    { routerId: "decider", config: config.router },
  );
  const decide = async (prompt: Uint32Array): Promise<Timings> => {
    const route = routeOfModel(fleet.snapshot, model);
    if (route === null) throw new Error("the bench's fleet does not serve its model");
    const request = {
      model,
      stream: false,
      prompt: { form: "ids", prompts: [{ tokenIds: prompt }] },
      cacheSalt: null,
      bodyText: "",
    } as const;
    const { mode, matchedTokens, timings } = await decider.decide({ request, route, fleet: fleet.snapshot, encoder: null });
    if (mode !== "precise" || matchedTokens === 0) throw new Error(`the decision was not precise: ${mode}, ${matchedTokens} tokens`);
    return { keysMs: timings.keysMs ?? 0, lookupMs: timings.lookupMs ?? 0, totalMs: timings.totalMs };
  };
  try {
    const firsts = chains.map(({ first }) => Uint32Array.from(first));
    const nexts = chains.map(({ next }) => Uint32Array.from(next));
    const warm = [...firsts.slice(prompts), ...nexts.slice(prompts)];
    for (let round = 0; round < 20; round++) for (const prompt of warm) await decide(prompt);
    const cold = await openLoop(firsts.slice(0, prompts), decide);
    const remembered = await openLoop(nexts.slice(0, prompts), decide);
    const backToBack: Timings[] = [];
    for (const prompt of nexts.slice(0, prompts)) backToBack.push(await decide(prompt));
    return {
      ratePerSecond: openLoopRate,
      cold: summary(cold),
      remembered: summary(remembered),
      rememberedBackToBack: summary(backToBack),
    };
  } finally {
    await fleet.close();
  }
}

async function openLoop<T, R>(items: readonly T[], run: (item: T) => Promise<R>): Promise<readonly R[]> {
  const beganAt = performance.now();
  const underWay: Promise<R>[] = [];
  for (const [i, item] of items.entries()) {
    await wait(Math.max(0, beganAt + (i * 1_000) / openLoopRate - performance.now()));
    underWay.push(run(item));
  }
  return Promise.all(underWay);
}

async function pingEvery(url: string): Promise<readonly number[]> {
  const redis = new Redis(url);
  try {
    return await openLoop(Array.from({ length: prompts }), async () => {
      const startedAt = performance.now();
      await redis.ping();
      return performance.now() - startedAt;
    });
  } finally {
    redis.disconnect();
  }
}

function endpointIds(): EndpointId[] {
  return Array.from({ length: endpointCount }, (_, i) => `10.0.0.${i + 1}:8000` as EndpointId);
}

interface Chain {
  readonly first: readonly number[];
  readonly next: readonly number[];
  readonly keys: readonly BlockKey[];
}

function chainOf(seed: number): Chain {
  const next = Array.from({ length: (promptBlocks + turnBlocks) * blockTokens + 1 }, (_, i) => (seed * 7_919 + i * 31) % 150_000);
  const first = next.slice(0, promptBlocks * blockTokens + 1);
  const { keys } = createBlockHasher({ scheme, blockSizeTokens: blockTokens, model }).chain(first);
  return { first, next, keys };
}

async function fill(
  { index, registry }: Pick<ReturnType<typeof createRedisBackend>, "index" | "registry">,
  chains: readonly Chain[],
): Promise<void> {
  const scope = scopeIdOf({ model, blockSizeTokens: blockTokens, scheme });
  await registry.ensureScope(scope, { model, blockSizeTokens: blockTokens, scheme });
  for (const [i, endpoint] of endpointIds().entries()) {
    const lease = await registry.acquire(endpoint, "bench", 600_000);
    if (lease === null) throw new Error(`${endpoint} is leased to somebody else`);
    await registry.describe(
      lease,
      { address: endpoint, pool: "bench", model, rank: 0, scope, ready: true, groups: [], loras: {}, findings: {} },
      Date.now(),
    );
    const incarnation = await registry.startIncarnation(lease, 0);
    if (incarnation === null) throw new Error(`${endpoint} was taken over`);
    const writer = await index.openWriter({ scope, endpoint, incarnation, from: 0, fence: lease.fence });
    for (const [seq, { keys }] of chains.entries()) {
      const held = keys.slice(0, Math.ceil((keys.length * (i + 1)) / endpointCount));
      await writer.apply([{ seq, ops: [{ op: "store", medium: "gpu", group: 0, keys: held }] }]);
    }
  }
}

async function readEveryKey(url: string, chains: readonly (readonly BlockKey[])[]): Promise<readonly number[]> {
  const redis = new Redis(url);
  const scope = scopeIdOf({ model, blockSizeTokens: blockTokens, scheme });
  const space = createRedisKeys("kva").space(scopeTag(scope));
  const took: number[] = [];
  for (const keys of chains) {
    const startedAt = performance.now();
    const pipeline = redis.pipeline();
    for (const key of keys) pipeline.hgetall(space.block(0, key));
    const replies = await pipeline.exec();
    took.push(performance.now() - startedAt);
    if (replies?.length !== keys.length || Object.keys((replies[0]?.[1] as object) ?? {}).length === 0)
      throw new Error("the floor read nothing");
  }
  redis.disconnect();
  return took;
}

function summary(timings: readonly Timings[]): object {
  return {
    totalMs: percentiles(timings.map(({ totalMs }) => totalMs)),
    keysMs: percentiles(timings.map(({ keysMs }) => keysMs)),
    lookupMs: percentiles(timings.map(({ lookupMs }) => lookupMs)),
  };
}

function percentiles(values: readonly number[]): { readonly p50: number; readonly p99: number } {
  const sorted = [...values].sort((a, b) => a - b);
  const at = (part: number) => Number((sorted[Math.min(sorted.length - 1, Math.floor(part * sorted.length))] ?? 0).toFixed(3));
  return { p50: at(0.5), p99: at(0.99) };
}
