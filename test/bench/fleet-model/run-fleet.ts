import type { FleetSnapshot } from "@kvatlas/router/fleet/fleet";
import { mergeFleet } from "@kvatlas/router/fleet/merge-fleet";
import { KeyMemory } from "@kvatlas/router/routing/key-memory";
import { PromptKeys } from "@kvatlas/router/routing/prompt-keys";
import { configSchema, type KvatlasConfig } from "@kvatlas/shared/config/schema";
import { type BlockHasher, createBlockHasher } from "@kvatlas/shared/hashing/block-hasher";
import { scopeIdOf } from "@kvatlas/shared/hashing/key-scheme";
import { MemoryBlockIndex } from "@kvatlas/shared/index/memory-block-index";
import { MemoryEndpointRegistry } from "@kvatlas/shared/registry/memory-endpoint-registry";
import { MemoryRoutingHistory } from "@kvatlas/shared/routing-history/memory-routing-history";
import type { RoutingHistory } from "@kvatlas/shared/routing-history/routing-history";
import type { BlockKey, EndpointId } from "@kvatlas/shared/types";
import type { LatencyOptions } from "@kvatlas/simulator/engine/latency-model";
import type { PoolEvent } from "@kvatlas/simulator/engine/pool-events";
import { createRandom } from "../statistics.ts";
import { ModelIndexFeed } from "./model-index-feed.ts";
import { ModelReplica } from "./model-replica.ts";
import { ModelRouter } from "./model-router.ts";
import { ModelTime } from "./model-time.ts";
import { FleetLog, type FleetOutcome } from "./outcome.ts";
import type { ModelRequest, Phase, Workload } from "./workload.ts";

export interface FleetOptions {
  readonly replicas: number;
  readonly capacityTokens: number;
  readonly latency?: Partial<LatencyOptions>;
  readonly maxNumSeqs?: number;
  readonly maxNumBatchedTokens?: number;
  /** Sections `router` and `prefixCache` of the configuration, as a user would write them. */
  readonly router?: object;
  readonly prefixCache?: object;
  /** Requests go to them in turn. @defaultValue 1 */
  readonly routers?: number;
  /** From the end of a step to its blocks being visible in the index. @defaultValue 5 */
  readonly eventDelayMs?: number;
  readonly seed?: number;
  /** Keys computed in earlier runs of the same workload; computing them again would only take time. */
  readonly keyCache?: KeyCache;
  /** Runs at a moment of the model, e.g. to restart something. */
  readonly incidents?: readonly { readonly atMs: number; readonly what: "restart-router" | "restart-replica"; readonly which: number }[];
}

/** Block keys of a workload, computed once for all runs: those of the engines, and those that the routers compute. */
export class KeyCache {
  readonly prompts: PromptKeys;
  readonly #hashes = new WeakMap<ModelRequest, readonly BlockKey[]>();

  constructor() {
    this.prompts = new PromptKeys(new KeyMemory({ maxTokens: rememberedTokens }));
  }

  hashes(request: ModelRequest, compute: () => readonly BlockKey[]): readonly BlockKey[] {
    let hashes = this.#hashes.get(request);
    if (hashes === undefined) {
      hashes = compute();
      this.#hashes.set(request, hashes);
    }
    return hashes;
  }
}

/** Prompts of a whole trace. */
const rememberedTokens = 96 * 1024 * 1024;

/**
 * Qwen3-32B on two H100 (tensor parallel), fitted to the published ladder: 8 replicas of this make 10,500 tokens/s with every prefix cached
 * (187 sequences each, 140 ms a step, most of it reading 1.4 M tokens of context) and 4,800 with random placement.
 */
export const publishedLatency: LatencyOptions = {
  prefillTokensPerSecond: 11_000,
  decodeMs: 18,
  decodeMsPerSequence: 0.05,
  contextMsPerThousandTokens: 0.06,
  hostLoadTokensPerSecond: 200_000,
  speed: 1,
};

const model = "model/under-test";
const scheme = { kind: "native", algorithm: "xxhash_cbor", seed: "0" } as const;
/** Of the ingesters' scrapes, as the services have it. */
const scrapeIntervalMs = 500;

/**
 * Runs a workload through a fleet in discrete events: production decider, key computation, in-flight ledger and memory index; the simulator's
 * engine core; a model of time only. Deterministic.
 */
export async function runFleet(workload: Workload, options: FleetOptions): Promise<FleetOutcome> {
  return new FleetRun(workload, options).run();
}

class FleetRun {
  readonly #workload: Workload;
  readonly #options: FleetOptions;
  readonly #time = new ModelTime();
  readonly #index = new MemoryBlockIndex();
  readonly #history: RoutingHistory;
  readonly #registry = new MemoryEndpointRegistry({ clock: this.#time });
  readonly #replicas = new Map<EndpointId, ModelReplica>();
  readonly #feeds = new Map<EndpointId, ModelIndexFeed>();
  readonly #hasher: BlockHasher;
  readonly #keyCache: KeyCache;
  readonly #config: KvatlasConfig;
  readonly #log = new FleetLog();
  readonly #random: () => number;
  #fleet: FleetSnapshot = { pools: [], scopes: new Map(), routers: [], registryReachable: true };
  #routers: ModelRouter[] = [];
  readonly #restarted = new Set<ModelRouter>();
  #turn = 0;
  #bypassTurn = 0;
  #routersMade = 0;
  #failure: { readonly error: unknown } | null = null;

  constructor(workload: Workload, options: FleetOptions) {
    this.#workload = workload;
    this.#options = options;
    this.#history = new MemoryRoutingHistory({ clock: this.#time });
    this.#keyCache = options.keyCache ?? new KeyCache();
    const next = createRandom(options.seed ?? 1);
    this.#random = () => next() / 2 ** 32;
    const addresses = Array.from({ length: options.replicas }, (_, i) => `10.0.0.${i + 1}:8000`);
    this.#config = configSchema.parse({
      pools: [
        { name: "model", model, endpoints: { static: addresses.map((address) => ({ address })) }, prefixCache: options.prefixCache ?? {} },
      ],
      // No real time passes in a lookup of the model, but its process may be stopped for a while.
      router: { lookupTimeoutMs: 60_000, tokenizeTimeoutMs: 60_000, ...options.router },
    });
    this.#hasher = createBlockHasher({ scheme, blockSizeTokens: workload.blockSizeTokens, model });
  }

  async run(): Promise<FleetOutcome> {
    await this.#start();
    for (const phase of this.#workload.phases) {
      const began = this.#time.elapsedMs;
      let open = phase.requests.length;
      const finished = (): void => {
        open -= 1;
      };
      this.#send(phase, finished);
      await this.#time.run(() => open === 0 || this.#failure !== null);
      if (this.#failure !== null) throw this.#failure.error;
      if (open > 0) throw new Error(`${open} requests of ${phase.name} were never answered`);
      this.#log.phaseEnded(phase.name, phase.isWarmUp === true, this.#time.elapsedMs - began);
    }
    return this.#log.outcome([...this.#replicas.keys()]);
  }

  async #start(): Promise<void> {
    const spec = { model, blockSizeTokens: this.#workload.blockSizeTokens, scheme };
    const scope = scopeIdOf(spec);
    await this.#registry.ensureScope(scope, spec);
    for (const { address } of this.#config.pools[0]?.endpoints.static ?? []) {
      const endpoint = address as EndpointId;
      await this.#openEndpoint(endpoint);
      const replica = new ModelReplica(this.#time, (events) => this.#feedIndex(endpoint, events), {
        blockSizeTokens: this.#workload.blockSizeTokens,
        capacityTokens: this.#options.capacityTokens,
        latency: { ...publishedLatency, ...this.#options.latency },
        maxNumSeqs: this.#options.maxNumSeqs ?? 256,
        maxNumBatchedTokens: this.#options.maxNumBatchedTokens ?? 8_192,
      });
      this.#replicas.set(endpoint, replica);
    }
    for (let i = 0; i < (this.#options.routers ?? 1); i += 1) this.#routers.push(await this.#newRouter());
    await this.#refreshFleet();
    this.#every(scrapeIntervalMs, () => this.#scrape());
    for (const incident of this.#options.incidents ?? []) {
      this.#time.after(incident.atMs, () =>
        incident.what === "restart-router" ? this.#restartRouter(incident.which) : this.#restartReplica(incident.which),
      );
    }
  }

  /** Blocks become visible a little after the step; those of an engine that has restarted in between never do. */
  #feedIndex(endpoint: EndpointId, events: readonly PoolEvent[]): void {
    const feed = this.#feeds.get(endpoint);
    this.#time.after(this.#options.eventDelayMs ?? 5, async () => {
      if (feed !== undefined && feed === this.#feeds.get(endpoint)) await feed.apply(events);
    });
  }

  /** Takes the endpoint over in a new incarnation, as its ingester does when it appears or its engine has restarted. */
  async #openEndpoint(endpoint: EndpointId): Promise<void> {
    const scope = scopeIdOf({ model, blockSizeTokens: this.#workload.blockSizeTokens, scheme });
    const lease = await this.#registry.acquire(endpoint, "ingester", 1e9);
    if (lease === null) throw new Error(`no lease for ${endpoint}`);
    const incarnation = await this.#registry.startIncarnation(lease, 0);
    if (incarnation === null) throw new Error(`no incarnation for ${endpoint}`);
    await this.#registry.describe(lease, { address: endpoint, pool: "model", model, scope, ready: true }, this.#time.now());
    const writer = await this.#index.openWriter({ scope, endpoint, incarnation, from: 0, fence: lease.fence });
    this.#feeds.set(endpoint, new ModelIndexFeed(writer));
  }

  async #newRouter(): Promise<ModelRouter> {
    this.#routersMade += 1;
    const deps = {
      time: this.#time,
      index: this.#index,
      registry: this.#registry,
      keys: this.#keyCache.prompts,
      history: this.#history,
      random: this.#random,
    };
    const router = new ModelRouter(deps, `router-${this.#routersMade}`, this.#config);
    await router.start();
    return router;
  }

  async #refreshFleet(): Promise<void> {
    this.#fleet = {
      pools: mergeFleet({
        pools: this.#config.pools,
        records: await this.#registry.endpoints(),
        nowMs: this.#time.now(),
        endpointTtlMs: Number.MAX_SAFE_INTEGER,
        silenceFromMs: 0,
      }),
      scopes: await this.#registry.scopes(),
      routers: this.#routers.map((router) => router.id),
      registryReachable: true,
    };
    for (const router of this.#routers) router.see(this.#fleet);
  }

  #every(intervalMs: number, run: () => Promise<void>): void {
    const again = async (): Promise<void> => {
      await run();
      this.#time.after(intervalMs, again);
    };
    this.#time.after(intervalMs, again);
  }

  async #scrape(): Promise<void> {
    let waiting = 0;
    for (const replica of this.#replicas.values()) waiting += replica.waiting;
    this.#log.queued(waiting / this.#replicas.size);
    await this.#registry.setLoad(new Map([...this.#replicas].map(([endpoint, replica]) => [endpoint, replica.load])));
  }

  async #restartRouter(which: number): Promise<void> {
    const router = await this.#newRouter();
    this.#routers[which]?.kill();
    this.#routers[which] = router;
    this.#restarted.add(router);
    await this.#refreshFleet();
  }

  async #restartReplica(which: number): Promise<void> {
    const [endpoint, replica] = [...this.#replicas][which] ?? [];
    if (endpoint === undefined || replica === undefined) return;
    replica.restart();
    await this.#openEndpoint(endpoint);
    await this.#refreshFleet();
  }

  #send(phase: Phase, finished: () => void): void {
    const followers = new Map<number, number[]>();
    phase.requests.forEach((request, place) => {
      if (request.follows === undefined) return;
      const sisters = followers.get(request.follows) ?? [];
      sisters.push(place);
      followers.set(request.follows, sisters);
    });
    const schedule = (place: number): void => {
      const request = phase.requests[place];
      if (request === undefined) return;
      this.#time.after(request.atMs, async () => {
        try {
          await this.#handle(request, phase, () => {
            finished();
            for (const next of followers.get(place) ?? []) schedule(next);
          });
        } catch (error) {
          this.#failure ??= { error };
        }
      });
    };
    phase.requests.forEach((request, place) => {
      if (request.follows === undefined) schedule(place);
    });
  }

  async #handle(request: ModelRequest, phase: Phase, answered: () => void): Promise<void> {
    const tokens = request.tokens();
    const hashes = this.#keyCache.hashes(request, () => this.#hasher.chain(tokens).keys);
    const arrivedAt = this.#time.elapsedMs;
    const attempt = async (): Promise<void> => {
      const target = await this.#target(request, tokens);
      const entry = target.begin();
      this.#replicas.get(target.endpoint)?.submit(tokens, request.promptTokens, hashes, {
        onFirstToken: (cachedTokens) => {
          entry?.firstByte();
          const ttftMs = this.#time.elapsedMs - arrivedAt;
          this.#log.answered(phase.isWarmUp === true, target, request, { ttftMs, cachedTokens });
        },
        onFinished: () => {
          entry?.end();
          answered();
        },
        onLost: () => {
          entry?.end();
          // The client's retry, or the router's: the request starts anew elsewhere.
          this.#time.after(0, attempt);
        },
      });
    };
    await attempt();
  }

  async #target(request: ModelRequest, tokens: Uint32Array) {
    if (request.bypassesRouters === true) {
      const endpoints = [...this.#replicas.keys()];
      const endpoint = endpoints[this.#bypassTurn++ % endpoints.length] as EndpointId;
      return { endpoint, decision: null, isRestarted: false, begin: () => null };
    }
    const router = this.#routers[this.#turn++ % this.#routers.length];
    if (router === undefined) throw new Error("a fleet has at least one router");
    const decision = await router.decide(this.#fleet, tokens.subarray(0, request.promptTokens), model);
    return { endpoint: decision.endpoint.id, decision, isRestarted: this.#restarted.has(router), begin: () => router.begin(decision) };
  }
}
