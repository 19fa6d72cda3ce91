import { createIngester, type Ingester } from "@kvatlas/ingester/app";
import type { Clock } from "@kvatlas/shared/clock";
import { configSchema, type KvatlasConfig } from "@kvatlas/shared/config/schema";
import { createBlockHasher } from "@kvatlas/shared/hashing/block-hasher";
import type { NativeScheme } from "@kvatlas/shared/hashing/key-scheme";
import type { BlockIndex } from "@kvatlas/shared/index/block-index";
import { MemoryBlockIndex } from "@kvatlas/shared/index/memory-block-index";
import { type Logger, silentLogger } from "@kvatlas/shared/logger";
import { createMetricsRegistry } from "@kvatlas/shared/metrics";
import type { EndpointRecord, EndpointRegistry } from "@kvatlas/shared/registry/endpoint-registry";
import { MemoryEndpointRegistry } from "@kvatlas/shared/registry/memory-endpoint-registry";
import type { BlockKey, EndpointId } from "@kvatlas/shared/types";
import type { TestPublisher, WireEvent } from "./test-publisher.ts";

export const blockSize = 4;
export const scheme: NativeScheme = { kind: "native", algorithm: "sha256_cbor", seed: "42" };
const hasher = createBlockHasher({ scheme, blockSizeTokens: blockSize, model: "m" });

/** A prompt of `blocks` blocks, its keys, and the events an engine (vLLM 0.24 to 0.32, map form) sends for them. */
export class TestPrompt {
  readonly tokens: readonly number[];
  readonly keys: readonly BlockKey[];

  constructor(seed: number, blocks: number) {
    this.tokens = Array.from({ length: blocks * blockSize }, (_, i) => seed * 1_000 + i);
    this.keys = hasher.chain(this.tokens).keys;
  }

  stored(from = 0, to = this.keys.length, more: Readonly<Record<string, unknown>> = {}): WireEvent {
    return {
      type: "BlockStored",
      block_hashes: this.keys.slice(from, to).map(wireHash),
      parent_block_hash: from === 0 ? null : wireHash(this.keys[from - 1] ?? ""),
      token_ids: this.tokens.slice(from * blockSize, to * blockSize),
      block_size: blockSize,
      lora_id: null,
      medium: "GPU",
      lora_name: null,
      extra_keys: this.keys.slice(from, to).map(() => null),
      ...more,
    };
  }

  removed(...blocks: readonly number[]): WireEvent {
    return { type: "BlockRemoved", block_hashes: blocks.map((block) => wireHash(this.keys[block] ?? "")), medium: "GPU" };
  }
}

export const cleared: WireEvent = { type: "AllBlocksCleared" };

export function wireHash(key: string): bigint {
  return BigInt(`0x${key}`);
}

export interface TestStore {
  readonly index: BlockIndex;
  readonly registry: EndpointRegistry;
}

export function memoryStore(): TestStore {
  return { index: new MemoryBlockIndex(), registry: new MemoryEndpointRegistry() };
}

export interface TestIngester {
  readonly ingester: Ingester;
  readonly metricsRegistry: ReturnType<typeof createMetricsRegistry>;
  /** Value of a counter or gauge, summed over the label sets that match. */
  metric(name: string, labels?: Readonly<Record<string, string>>): Promise<number>;
}

type ConfigInput = (typeof configSchema)["_zod"]["input"];

export function testConfig(pools: ConfigInput["pools"], ingester: ConfigInput["ingester"] = {}): KvatlasConfig {
  return configSchema.parse({
    pools,
    ingester: { heartbeatMs: 100, leaseTtlMs: 1_000, scrapeIntervalMs: 100, replayTimeoutMs: 500, admin: "127.0.0.1:0", ...ingester },
  });
}

/** One pool of replicas that are dialled. Their HTTP addresses need not answer. */
export function poolOf(
  publishers: readonly { readonly address: string; readonly publisher: Pick<TestPublisher, "events" | "replay"> }[],
  prefixCache: NonNullable<ConfigInput["pools"]>[number]["prefixCache"] = {},
): NonNullable<ConfigInput["pools"]>[number] {
  return {
    name: "p",
    model: "m",
    prefixCache,
    endpoints: {
      static: publishers.map(({ address, publisher }) => ({
        address,
        events: publisher.events,
        ...(publisher.replay === "" ? {} : { replay: publisher.replay }),
      })),
    },
  };
}

/** @param over - what of its surroundings is not as usual */
export async function startTestIngester(
  store: TestStore,
  config: KvatlasConfig,
  instanceId = "i0",
  over: { readonly clock?: Clock; readonly logger?: Logger } = {},
): Promise<TestIngester> {
  const metricsRegistry = createMetricsRegistry("ingester", { processMetrics: false });
  const ingester = createIngester({ ...store, logger: silentLogger, metricsRegistry, ...over }, config, { instanceId, admin: false });
  await ingester.start();
  return {
    ingester,
    metricsRegistry,
    metric: async (name, labels = {}) => {
      const values = (await metricsRegistry.getSingleMetric(name)?.get())?.values ?? [];
      return values
        .filter((value) => Object.entries(labels).every(([label, wanted]) => value.labels[label] === wanted))
        .reduce((sum, value) => sum + value.value, 0);
    },
  };
}

export async function recordOf(store: TestStore, endpoint: string): Promise<EndpointRecord | undefined> {
  return (await store.registry.endpoints()).find((record) => record.id === endpoint);
}

/** Copies of each block of the prompt that the endpoint is known to hold, dead entries not counted. */
export async function heldBy(store: TestStore, endpoint: string, keys: readonly BlockKey[]): Promise<readonly number[]> {
  const scope = (await recordOf(store, endpoint))?.meta.scope ?? null;
  if (scope === null) return keys.map(() => 0);
  const holders = await Promise.all(keys.map((key) => store.index.holders(scope, key)));
  return holders.map((list) =>
    list
      .filter((holder) => holder.endpoint === (endpoint as EndpointId) && holder.live)
      .reduce((sum, holder) => sum + Object.values(holder.copies).reduce((copies, count) => copies + count, 0), 0),
  );
}
