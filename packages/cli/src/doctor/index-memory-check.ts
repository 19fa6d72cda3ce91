import type { ScopeSpec } from "@kvatlas/shared/hashing/key-scheme";
import type { IndexCensus } from "@kvatlas/shared/index/block-index";
import type { EndpointLoad, EndpointMeta } from "@kvatlas/shared/registry/endpoint-registry";
import type { EndpointId, ScopeId } from "@kvatlas/shared/types";
import { limitOf, mebibytes } from "./redis-check.ts";
import type { RedisServer } from "./redis-servers.ts";
import { ok, problem, type Verdict } from "./verdict.ts";

/** Of a block that one replica holds (docs/redis-schema.md, Memory); what is counted replaces it. */
const bytesPerBlock = 123;
/** Of what an engine calls a block, under the `content` scheme. */
const bytesPerName = 97;

export interface IndexMemory {
  readonly servers: readonly RedisServer[];
  readonly census: IndexCensus;
  readonly endpoints: readonly { readonly id: EndpointId; readonly meta: Pick<EndpointMeta, "scope"> }[];
  readonly loads: ReadonlyMap<EndpointId, EndpointLoad>;
  readonly scopes: ReadonlyMap<ScopeId, ScopeSpec>;
}

/**
 * Pure: what the index takes now, and whether it still fits when every replica has filled its cache with blocks that nobody else holds. Nothing is said
 * where no replica tells how much it can hold.
 */
export function checkIndexMemory({ servers, census, endpoints, loads, scopes }: IndexMemory): Verdict {
  const counted = [...census.scopes.values()];
  const blocks = counted.reduce((sum, scope) => sum + scope.blocks, 0);
  const bytes = counted.reduce((sum, scope) => sum + (scope.bytes ?? scope.blocks * bytesPerBlock), 0);
  const each = blocks === 0 ? bytesPerBlock : bytes / blocks;
  const now = `${census.isExact ? "" : "about "}${blocks} blocks take ${mebibytes(bytes)}${blocks === 0 ? "" : `, ${each.toFixed(0)} bytes each`}`;
  let most = 0;
  let needed = 0;
  for (const { id, meta } of endpoints) {
    const spec = meta.scope === null ? undefined : scopes.get(meta.scope);
    const { maxTokens } = loads.get(id) ?? { maxTokens: null };
    if (spec === undefined || maxTokens === null) continue;
    const capacity = Math.floor(maxTokens / spec.blockSizeTokens);
    most += capacity;
    needed += capacity * (bytesPerBlock + (spec.scheme.kind === "content" ? bytesPerName : 0));
  }
  if (most === 0) return ok("redis", "index", now);
  const primaries = servers.filter(({ isPrimary }) => isPrimary);
  const limit = primaries.reduce((sum, { info }) => sum + limitOf(info), 0);
  const used = primaries.reduce((sum, { info }) => sum + Number(info?.get("used_memory") ?? Number.NaN), 0);
  const others = Math.max(0, used - bytes);
  const full = `with every cache full of blocks of its own it takes ${mebibytes(needed)} for ${most} blocks`;
  if (Number.isFinite(limit) && others + needed > limit) {
    return problem(
      "redis",
      "index",
      `${now}; ${full}, beside ${mebibytes(others)} of other things: more than maxmemory, ${mebibytes(limit)}. Raise it to twice that, dead entries stay until they are purged.`,
    );
  }
  return ok("redis", "index", `${now}; ${full}`);
}
