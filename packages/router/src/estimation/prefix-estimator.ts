import type { PoolConfig } from "@kvatlas/shared/config/schema";
import { estimateKeys, estimateScope, everyNth, sampledScope } from "@kvatlas/shared/routing-history/estimate-chain";
import type { RoutedChain } from "@kvatlas/shared/routing-history/routing-history";
import type { EndpointId } from "@kvatlas/shared/types";
import type { FleetEndpoint } from "../fleet/fleet.ts";
import type { DecisionReason } from "../routing/decision.ts";
import type { KeyedQuery } from "../routing/prompt-keys.ts";
import type { GivenUp, RequestWork } from "../routing/request-work.ts";
import type { Held, Residency } from "../routing/residency.ts";
import type { CacheFloors } from "./cache-floors.ts";
import type { Recalled, RoutingMemory } from "./routing-memory.ts";

export type EstimateConfig = PoolConfig["prefixCache"]["estimate"];

/** A request as estimates know it. */
export interface EstimateChains {
  readonly chains: readonly RoutedChain[];
  readonly tokensPerBlock: number;
  /** Of all prompts; by the length of the text where they were not tokenized. */
  readonly promptTokens: number;
  /** Read and written for all routers; else by this one for itself. */
  readonly isShared: boolean;
}

export interface PrefixEstimatorDeps {
  readonly memory: RoutingMemory;
  readonly floors: Pick<CacheFloors, "of">;
}

/** Requests that do not read the cache, or whose prompt is not in their text. */
const usesNoCache: ReadonlySet<DecisionReason> = new Set(["skips-cache", "prompt-embeds"]);
/** Prompts of one request that are estimated; further ones count as uncached. */
const maxPrompts = 16;
/** Bytes of text that count as a token. */
const bytesPerToken = 4;
/** Text beyond it is not looked at. */
const maxTextChars = 1_048_576;

/**
 * Estimates who holds how much of a prompt by what routers sent where. Needs no events. What was sent to a process that is no longer there, or longer ago
 * than caches are expected to keep, does not count.
 */
export class PrefixEstimator {
  readonly #deps: PrefixEstimatorDeps;
  readonly #timeoutMs: number;

  constructor(deps: PrefixEstimatorDeps, options: { readonly lookupTimeoutMs: number }) {
    this.#deps = deps;
    this.#timeoutMs = options.lookupTimeoutMs;
  }

  /** Chains by tokens, or by the prompt's text where there are none. */
  async chainsOf(work: RequestWork, config: EstimateConfig): Promise<EstimateChains | GivenUp> {
    const { request, route } = work.input;
    const tokenized = await work.tokenized();
    const pool = route.pool.config.name;
    const root = JSON.stringify([route.lora, request.cacheSalt]);
    const began = work.now();
    // All images have the same tokens. Their addresses or contents, which are part of the text, tell them apart.
    if ("prompts" in tokenized && tokenized.prompts.every(({ media }) => media === undefined)) {
      const scope = estimateScope(pool, "tokens", config.blockTokens);
      const chains = tokenized.prompts.slice(0, maxPrompts).map(({ tokenIds: { buffer, byteOffset, byteLength } }) => ({
        scope,
        keys: estimateKeys(new Uint8Array(buffer, byteOffset, byteLength), config.blockTokens * 4, root),
      }));
      work.timed("keysMs", work.now() - began);
      return { chains, tokensPerBlock: config.blockTokens, promptTokens: work.promptTokens ?? 0, isShared: true };
    }
    const why: GivenUp = "reason" in tokenized ? tokenized : { reason: "media" };
    if (usesNoCache.has(why.reason)) return why;
    const text = request.promptText?.() ?? "";
    if (text === "") return why;
    const bytes = Buffer.from(text.slice(0, maxTextChars), "utf8");
    const scope = estimateScope(pool, "bytes", config.blockBytes);
    const chains = [{ scope, keys: estimateKeys(bytes, config.blockBytes, root) }];
    work.timed("keysMs", work.now() - began);
    return {
      chains,
      tokensPerBlock: config.blockBytes / bytesPerToken,
      promptTokens: Math.ceil(text.length / bytesPerToken),
      isShared: true,
    };
  }

  /** Chains out of the keys that a precise lookup has, which cost nothing more. */
  chainsOfKeys(queries: readonly KeyedQuery[], config: EstimateConfig, promptTokens: number, isShared: boolean): EstimateChains | null {
    const first = queries[0];
    if (first === undefined) return null;
    const n = Math.max(1, Math.round(config.blockTokens / first.blockSizeTokens));
    const chains = queries
      .filter(({ endpoints }) => endpoints === first.endpoints)
      .map(({ query }) => ({ scope: sampledScope(query.scope, n), keys: everyNth(query.keys, n) }));
    return { chains, tokensPerBlock: n * first.blockSizeTokens, promptTokens, isShared };
  }

  /** Never rejects: where the store cannot be asked in time, this router's own memory stands in. */
  async estimate(work: RequestWork, { chains, tokensPerBlock, isShared }: EstimateChains, config: EstimateConfig): Promise<Residency> {
    const began = work.now();
    const options = { maxAgeMs: config.ttlMs, form: "whole", timeoutMs: this.#timeoutMs } as const;
    const shared = isShared ? await this.#deps.memory.shared(chains, options).catch(() => null) : null;
    if (isShared) work.timed("lookupMs", work.now() - began);
    // Dry runs go by what all routers know.
    const own = work.isDryRun && shared !== null ? [] : this.#deps.memory.own(chains, options);
    const endpoints = new Map(work.input.route.endpoints.map((endpoint) => [endpoint.id, endpoint]));
    const blocks = new Map<EndpointId, number>();
    let longestFirst = 0;
    for (const i of chains.keys()) {
      const longest = new Map<EndpointId, number>();
      for (const recalled of [shared, own]) this.#take(recalled, i, endpoints, longest);
      for (const [endpoint, count] of longest) {
        blocks.set(endpoint, (blocks.get(endpoint) ?? 0) + count);
        if (i === 0) longestFirst = Math.max(longestFirst, count);
      }
    }
    const keys = chains[0]?.keys ?? [];
    return {
      matches: new Map([...blocks].map(([endpoint, count]) => [endpoint, heldOf(count, tokensPerBlock)])),
      blocks: chains.reduce((sum, chain) => sum + chain.keys.length, 0),
      partingKey: keys[Math.min(longestFirst, keys.length - 1)] ?? null,
    };
  }

  /** Remembers where a request goes, and returns the way to take it back. */
  remember({ chains, isShared }: EstimateChains, endpoint: FleetEndpoint, config: EstimateConfig): () => void {
    return this.#deps.memory.remember(chains, endpoint.id, { ttlMs: config.ttlMs, isShared });
  }

  #take(recalled: Recalled | null, i: number, endpoints: ReadonlyMap<EndpointId, FleetEndpoint>, longest: Map<EndpointId, number>): void {
    for (const [id, { position, at }] of recalled?.[i] ?? []) {
      const endpoint = endpoints.get(id);
      if (endpoint === undefined || at < this.#deps.floors.of(endpoint)) continue;
      longest.set(id, Math.max(position + 1, longest.get(id) ?? 0));
    }
  }
}

function heldOf(blocks: number, tokensPerBlock: number): Held {
  const tokens = blocks * tokensPerBlock;
  return { tokens, blocks, byMedium: { gpu: tokens } };
}
