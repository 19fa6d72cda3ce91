import type { RedisCommand, RedisConnection } from "../redis.ts";
import { redisError } from "../redis-error.ts";
import { scanPage } from "../redis-scan.ts";
import type { EndpointId, ScopeId } from "../types.ts";
import type { IndexCensus, ScopeCensus } from "./block-index.ts";
import { tally } from "./index-census.ts";
import { readHolders } from "./redis-holders.ts";
import { partsOfBlock, type RedisKeys, type SpaceKeys } from "./redis-keys.ts";
import { layoutsOf, parseScopeField, SCHEMA_VERSION } from "./scope-layout.ts";

export interface CensusDeps {
  readonly connection: RedisConnection;
  readonly keys: RedisKeys;
}

/** Keys per SCAN: what keeps Redis busy at a time, 0.2 to 0.5 ms. */
const KEYS_PER_PAGE = 1_000;

/** Of how many blocks one is weighed: MEMORY USAGE costs as much as reading the block. */
const WEIGHED_EVERY = 20;

interface ScopeTally {
  blocks: number;
  readonly holders: Map<EndpointId, { live: number; dead: number }>;
  weighed: number;
  bytes: number;
}

/**
 * Counts by SCAN over all keys, because only then the part that was seen can be set against DBSIZE. Redis scans in the order of a hash of the
 * keys, so what comes first is a random sample.
 */
export async function takeCensus({ connection, keys }: CensusDeps, maxKeys: number): Promise<IndexCensus> {
  const read = async (commands: readonly RedisCommand[]): Promise<readonly unknown[]> => {
    const replies = await connection.send(commands);
    for (const reply of replies) if (reply instanceof Error) throw redisError(reply);
    return replies;
  };
  const [registered] = await read([["hgetall", keys.scopes]]);
  const scopes = new Map<string, { readonly scope: ScopeId; readonly space: SpaceKeys }>();
  const tallies = new Map<ScopeId, ScopeTally>();
  for (const [field, text] of Object.entries(registered as Readonly<Record<string, string>>)) {
    const { scope, version } = parseScopeField(field);
    const layouts = layoutsOf(text);
    if (layouts === null || version !== SCHEMA_VERSION) continue;
    const space = keys.space(layouts.current.tag);
    scopes.set(space.prefix, { scope, space });
    tallies.set(scope, { blocks: 0, holders: new Map(), weighed: 0, bytes: 0 });
  }
  const positions = new Map<string, Readonly<Record<string, string>>>();
  let cursor: string | null = "0";
  let examined = 0;
  let met = 0;
  do {
    const { next, keys: found } = await scanPage(connection, cursor, KEYS_PER_PAGE);
    cursor = next;
    examined += found.length;
    const blocks = found.flatMap((key) => {
      const parts = partsOfBlock(key);
      const found = scopes.get(parts?.spacePrefix ?? "");
      return parts === null || found === undefined ? [] : [{ key, scope: found.scope, seq: found.space.seq(parts.shard) }];
    });
    const shards = [...new Set(blocks.map(({ seq }) => seq))].filter((key) => !positions.has(key));
    const weighed = blocks.filter(() => met++ % WEIGHED_EVERY === 0);
    const replies = await read([
      ...shards.map((key) => ["hgetall", key] as const),
      ...blocks.map(({ key }) => ["hgetall", key] as const),
      ...weighed.map(({ key }) => ["memory", "USAGE", key] as const),
    ]);
    for (const [i, key] of shards.entries()) positions.set(key, (replies[i] ?? {}) as Record<string, string>);
    for (const [i, { scope, seq }] of blocks.entries()) {
      const counts = tallies.get(scope);
      const holders = readHolders((replies[shards.length + i] ?? {}) as Record<string, string>, positions.get(seq) ?? {});
      if (counts === undefined || holders.length === 0) continue;
      counts.blocks += 1;
      for (const holder of holders) tally(counts.holders, holder);
    }
    for (const [i, { scope }] of weighed.entries()) {
      const counts = tallies.get(scope);
      const bytes = replies[shards.length + blocks.length + i];
      if (counts === undefined || typeof bytes !== "number") continue;
      counts.weighed += 1;
      counts.bytes += bytes;
    }
  } while (cursor !== null && examined < maxKeys);
  const { nodes } = await connection.layout();
  const sizes = await Promise.all(nodes.map((node) => connection.sendTo(node, [["dbsize"]])));
  const total = sizes.reduce((sum, [size]) => sum + (typeof size === "number" ? size : 0), 0);
  const isExact = cursor === null;
  const factor = isExact || examined === 0 ? 1 : Math.max(1, total / examined);
  return {
    scopes: new Map([...tallies].map(([scope, counts]) => [scope, project(counts, factor)])),
    isExact,
    examined,
    total,
  };
}

function project({ blocks, holders, weighed, bytes }: ScopeTally, factor: number): ScopeCensus {
  return {
    blocks: Math.round(blocks * factor),
    holders: new Map(
      [...holders].map(([endpoint, { live, dead }]) => [endpoint, { live: Math.round(live * factor), dead: Math.round(dead * factor) }]),
    ),
    bytes: weighed === 0 ? (blocks === 0 ? 0 : null) : Math.round((bytes / weighed) * blocks * factor),
  };
}
