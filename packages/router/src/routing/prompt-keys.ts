import { mediaOfAdapter } from "@kvatlas/shared/hashing/adapter-media";
import { type BlockHasher, createBlockHasher, type KeyExtras } from "@kvatlas/shared/hashing/block-hasher";
import type { ScopeSpec } from "@kvatlas/shared/hashing/key-scheme";
import type { PrefixQuery } from "@kvatlas/shared/index/block-index";
import type { CacheGroup, EndpointId, ScopeId } from "@kvatlas/shared/types";
import type { FleetEndpoint } from "../fleet/fleet.ts";
import type { PromptTokens } from "../request/parse-request.ts";
import type { KeyMemory } from "./key-memory.ts";

/** One way of computing keys, and the endpoints whose keys are computed this way. */
export interface KeyedQuery {
  readonly query: PrefixQuery;
  readonly blockSizeTokens: number;
  readonly endpoints: ReadonlySet<EndpointId>;
}

export interface PromptKeysInput {
  readonly prompts: readonly PromptTokens[];
  readonly endpoints: readonly FleetEndpoint[];
  readonly scopes: ReadonlyMap<ScopeId, ScopeSpec>;
  readonly lora: string | null;
  readonly cacheSalt: string | null;
}

/** Prompts of one request that are looked up; further ones count as uncached. */
const maxPrompts = 16;
/** Ways of computing keys that are kept ready: scopes times forms present in the fleet, normally one. */
const maxHashers = 64;

/** Turns prompts into lookups: one per prompt and per way of computing keys that is present among the endpoints. */
export class PromptKeys {
  readonly #memory: KeyMemory;
  readonly #hashers = new Map<string, BlockHasher>();

  constructor(memory: KeyMemory) {
    this.#memory = memory;
  }

  /** Empty when nothing has been learned of any endpoint, or when no prompt fills a block. */
  queries(input: PromptKeysInput): readonly KeyedQuery[] {
    const variants = new Map<string, { readonly first: FleetEndpoint; readonly spec: ScopeSpec; readonly members: FleetEndpoint[] }>();
    const prompts = input.prompts.slice(0, maxPrompts);
    const hasExtras = input.lora !== null || input.cacheSalt !== null || prompts.some(({ media }) => media !== undefined);
    for (const endpoint of input.endpoints) {
      const spec = endpoint.scope === null ? undefined : input.scopes.get(endpoint.scope);
      if (spec === undefined) continue;
      // Without extras the releases' forms do not differ.
      const form = hasExtras ? `${endpoint.extrasForm ?? ""}|${adapterForm(endpoint, input.lora)}` : "";
      const name = `${endpoint.scope}|${endpoint.lookaheadTokens}|${form}`;
      const variant = variants.get(name);
      if (variant === undefined) variants.set(name, { first: endpoint, spec, members: [endpoint] });
      else variant.members.push(endpoint);
    }
    const queries: KeyedQuery[] = [];
    for (const [name, { first, spec, members }] of variants) {
      const scope = first.scope;
      if (scope === null) continue;
      const hasher = this.#hasher(name, first, spec);
      const chainId = JSON.stringify([name, input.lora, input.cacheSalt]);
      const endpoints = new Set(members.map((member) => member.id));
      const groups = groupsOf(members);
      for (const { tokenIds, media } of prompts) {
        const all = this.#memory.keys(hasher, chainId, tokenIds, extrasOf(input, first, media), first.lookaheadTokens);
        // The last token is always computed, so a prompt that ends with a block cannot hit that block (vLLM get_computed_blocks).
        const most = Math.floor((tokenIds.length - 1) / spec.blockSizeTokens);
        const keys = all.length > most ? all.slice(0, most) : all;
        if (keys.length === 0) continue;
        const query: PrefixQuery = groups === null ? { scope, keys } : { scope, keys, groups };
        queries.push({ query, blockSizeTokens: spec.blockSizeTokens, endpoints });
      }
    }
    return queries;
  }

  #hasher(name: string, endpoint: FleetEndpoint, spec: ScopeSpec): BlockHasher {
    let hasher = this.#hashers.get(name);
    if (hasher === undefined) {
      if (this.#hashers.size >= maxHashers) this.#hashers.clear();
      hasher = createBlockHasher({
        scheme: spec.scheme,
        blockSizeTokens: spec.blockSizeTokens,
        model: spec.model,
        lookaheadTokens: endpoint.lookaheadTokens,
        ...(endpoint.extrasForm === null ? {} : { extrasForm: endpoint.extrasForm }),
      });
      this.#hashers.set(name, hasher);
    }
    return hasher;
  }
}

function extrasOf(input: PromptKeysInput, endpoint: FleetEndpoint, media: PromptTokens["media"]): KeyExtras | undefined {
  if (input.lora === null && input.cacheSalt === null && media === undefined) return undefined;
  const path = input.lora === null ? undefined : endpoint.loras[input.lora];
  return {
    ...(input.lora === null ? {} : { lora: path === undefined ? { name: input.lora } : { name: input.lora, path } }),
    ...(input.cacheSalt === null ? {} : { cacheSalt: input.cacheSalt }),
    ...(media === undefined ? {} : { media: input.lora !== null && endpoint.mediaByAdapter ? mediaOfAdapter(media, input.lora) : media }),
  };
}

/** How an endpoint makes the keys of requests for an adapter; empty without one. */
function adapterForm(endpoint: FleetEndpoint, lora: string | null): string {
  return lora === null ? "" : `${endpoint.mediaByAdapter ? "own media " : ""}${endpoint.loras[lora] ?? ""}`;
}

/** Cache groups of hybrid models; null when every member has one full-attention group. */
function groupsOf(members: readonly FleetEndpoint[]): ReadonlyMap<EndpointId, readonly CacheGroup[]> | null {
  const groups = new Map<EndpointId, readonly CacheGroup[]>();
  for (const { id, groups: own } of members) {
    if (own.length > 1 || own.some((group) => group.kind !== "full" || group.id !== 0)) groups.set(id, own);
  }
  return groups.size > 0 ? groups : null;
}
