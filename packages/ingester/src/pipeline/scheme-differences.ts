import type { ScopeSpec } from "@kvatlas/shared/hashing/key-scheme";
import type { EndpointRecord } from "@kvatlas/shared/registry/endpoint-registry";
import type { EndpointId, ScopeId } from "@kvatlas/shared/types";

function nameOf({ scheme, blockSizeTokens }: ScopeSpec): string {
  const keys = scheme.kind === "content" ? "keys from token contents" : `${scheme.algorithm} with seed "${scheme.seed}"`;
  return `${keys}, blocks of ${blockSizeTokens}`;
}

/**
 * Endpoints of a pool whose keys are made in another way than most of that pool's, with a sentence about it. They coexist: a prompt is looked
 * up once for each way, at the cost of hashing it as often, and their blocks are not told equal.
 */
export function schemeDifferences(
  records: readonly EndpointRecord[],
  scopes: ReadonlyMap<ScopeId, ScopeSpec>,
): ReadonlyMap<EndpointId, string> {
  const pools = new Map<string, Map<ScopeId, EndpointId[]>>();
  for (const { id, meta } of records) {
    if (meta.scope === null || !scopes.has(meta.scope)) continue;
    const byScope = pools.get(meta.pool) ?? new Map<ScopeId, EndpointId[]>();
    byScope.set(meta.scope, [...(byScope.get(meta.scope) ?? []), id]);
    pools.set(meta.pool, byScope);
  }
  const sentences = new Map<EndpointId, string>();
  for (const byScope of pools.values()) {
    const ranked = [...byScope].sort(([a, many], [b, few]) => few.length - many.length || (a < b ? -1 : 1));
    const [usual, ...others] = ranked;
    const usualSpec = usual === undefined ? undefined : scopes.get(usual[0]);
    if (usual === undefined || usualSpec === undefined) continue;
    for (const [scope, endpoints] of others) {
      const spec = scopes.get(scope);
      if (spec === undefined) continue;
      const sentence =
        `Its keys are ${nameOf(spec)}; ${usual[1].length} others of the pool have ${nameOf(usualSpec)}. ` +
        "Give all replicas the same --prefix-caching-hash-algo, PYTHONHASHSEED and --block-size: each further way costs every request a lookup.";
      for (const endpoint of endpoints) sentences.set(endpoint, sentence);
    }
  }
  return sentences;
}
