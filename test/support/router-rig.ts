import { createRouter, type Router, type RouterDeps } from "@kvatlas/router/app";
import { type Backend, createMemoryBackend } from "@kvatlas/shared/backend";
import { configSchema, type KvatlasConfig } from "@kvatlas/shared/config/schema";
import { createBlockHasher } from "@kvatlas/shared/hashing/block-hasher";
import { scopeIdOf } from "@kvatlas/shared/hashing/key-scheme";
import type { BlockIndex } from "@kvatlas/shared/index/block-index";
import { silentLogger } from "@kvatlas/shared/logger";
import { createMetricsRegistry } from "@kvatlas/shared/metrics";
import type { EndpointMeta, EndpointRegistry } from "@kvatlas/shared/registry/endpoint-registry";
import type { PromptEncoder } from "@kvatlas/shared/tokenization/prompt-encoder";
import type { EndpointId } from "@kvatlas/shared/types";

export const rigModel = "org/model";
export const rigBlockTokens = 16;
const scheme = { kind: "native", algorithm: "sha256_cbor", seed: "0" } as const;
export const rigScope = scopeIdOf({ model: rigModel, blockSizeTokens: rigBlockTokens, scheme });

export interface RigOptions {
  /** Addresses of the replicas. */
  readonly endpoints: readonly string[];
  readonly router?: Readonly<Record<string, unknown>>;
  readonly pool?: Readonly<Record<string, unknown>>;
  readonly backend?: Pick<Backend, "index" | "registry"> & Partial<Pick<Backend, "history" | "quality">>;
  readonly encoder?: PromptEncoder;
  readonly routerId?: string;
  readonly logger?: RouterDeps["logger"];
}

export interface Rig {
  readonly url: string;
  readonly adminUrl: string;
  readonly router: Router;
  readonly index: BlockIndex;
  readonly registry: EndpointRegistry;
  /** Lets an endpoint hold the first `blocks` blocks of a prompt, through the ingester's own way into the index. */
  hold(endpoint: string, prompt: ArrayLike<number>, blocks: number): Promise<void>;
  /** Value of a metric line, e.g. `kvatlas_router_retries_total{why="connect"}`; 0 when it is not there. */
  metric(line: string): Promise<number>;
}

/** A router over a memory backend (or a given one), on free ports. */
export async function startRig(options: RigOptions): Promise<Rig> {
  const { index, registry, history, quality } = options.backend ?? createMemoryBackend();
  const config: KvatlasConfig = configSchema.parse({
    pools: [{ name: "pool", model: rigModel, endpoints: { static: options.endpoints.map((address) => ({ address })) }, ...options.pool }],
    router: { listen: "127.0.0.1:0", admin: "127.0.0.1:0", lookupTimeoutMs: 1_000, tokenizeTimeoutMs: 1_000, ...options.router },
  });
  const router = createRouter(
    {
      index,
      registry,
      ...(history === undefined ? {} : { history }),
      ...(quality === undefined ? {} : { quality }),
      logger: options.logger ?? silentLogger,
      metricsRegistry: createMetricsRegistry("router", { processMetrics: false }),
      createEncoder: () => options.encoder ?? null,
    },
    config,
    options.routerId === undefined ? {} : { routerId: options.routerId },
  );
  await router.start();
  const adminUrl = `http://${router.adminAddress}`;
  return {
    url: `http://${router.address}`,
    adminUrl,
    router,
    index,
    registry,
    hold: (endpoint, prompt, blocks) => holdPrefix({ index, registry }, endpoint, prompt, blocks),
    metric: async (line) => {
      const text = await (await fetch(`${adminUrl}/metrics`)).text();
      const found = text.split("\n").find((candidate) => candidate.startsWith(`${line} `));
      return found === undefined ? 0 : Number(found.slice(line.length + 1));
    },
  };
}

const sequences = new Map<string, number>();

export async function describeEndpoint(
  registry: EndpointRegistry,
  endpoint: string,
  meta: Partial<EndpointMeta> = {},
): Promise<{ readonly incarnation: number; readonly fence: number }> {
  const lease = await registry.acquire(endpoint as EndpointId, "rig", 60_000);
  if (lease === null) throw new Error(`${endpoint} is leased to somebody else`);
  const full: EndpointMeta = {
    address: endpoint,
    pool: "pool",
    model: rigModel,
    rank: 0,
    scope: rigScope,
    extrasForm: null,
    lookaheadTokens: 0,
    groups: [],
    loras: {},
    ready: true,
    processStartSeconds: null,
    findings: {},
    ...meta,
  };
  await registry.describe(lease, full, Date.now());
  const { incarnation } = await registry.state(lease.endpoint);
  const current = incarnation > 0 ? incarnation : await registry.startIncarnation(lease, 0);
  if (current === null) throw new Error(`${endpoint} was taken over`);
  return { incarnation: current, fence: lease.fence };
}

export async function holdPrefix(
  backend: { readonly index: BlockIndex; readonly registry: EndpointRegistry },
  endpoint: string,
  prompt: ArrayLike<number>,
  blocks: number,
): Promise<void> {
  const { index, registry } = backend;
  await registry.ensureScope(rigScope, { model: rigModel, blockSizeTokens: rigBlockTokens, scheme });
  const { incarnation, fence } = await describeEndpoint(registry, endpoint);
  const writer = await index.openWriter({ scope: rigScope, endpoint: endpoint as EndpointId, incarnation, from: 0, fence });
  const hasher = createBlockHasher({ scheme, blockSizeTokens: rigBlockTokens, model: rigModel });
  const keys = hasher.chain(prompt).keys.slice(0, blocks);
  const seq = sequences.get(endpoint) ?? 0;
  sequences.set(endpoint, seq + 1);
  await writer.apply([{ seq: Math.max(seq, writer.applied + 1), ops: [{ op: "store", medium: "gpu", group: 0, keys }] }]);
}

/** Token ids of a prompt that no other seed shares a block with. */
export function promptOf(tokens: number, seed: number): number[] {
  return Array.from({ length: tokens }, (_, i) => (seed * 1_000 + i) % 50_000);
}
