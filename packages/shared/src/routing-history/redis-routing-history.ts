import { type RedisKeys, shardOf } from "../index/redis-keys.ts";
import type { RedisConnection } from "../redis.ts";
import { type RedisScript, readScript, runScript } from "../redis-scripts.ts";
import type { StoreTime } from "../registry/store-time.ts";
import type { EndpointId } from "../types.ts";
import type { RoutedChain, RoutedLookup, RoutedMatch, Routing, RoutingHistory } from "./routing-history.ts";

export interface RedisRoutingHistoryDeps {
  readonly connection: RedisConnection;
  readonly keys: RedisKeys;
  /** Routings are told in the time of Redis, whatever the clocks of routers say. @defaultValue callers and Redis agree */
  readonly time?: Pick<StoreTime, "toStore" | "toOwn">;
}

export interface RedisRoutingHistoryOptions {
  /** Slots over which the chains of one scope are spread. The same for all routers. @defaultValue 1 */
  readonly shards?: number;
}

const agreeing: NonNullable<RedisRoutingHistoryDeps["time"]> = { toStore: (ms) => ms, toOwn: (ms) => ms };

/** Keys per script call: bounds how long Redis is busy at a time. */
const MAX_KEYS_PER_CALL = 512;
const MAX_PREFIXES_REMEMBERED = 10_000;

/**
 * The history in sorted sets, `<prefix>:{<tag>.<shard>}:r:<key>`. A chain lies in the shard of its first key as a whole, so that one script call reads or
 * writes it: prompts that share their beginning share the shard. Does not own its connection.
 */
export function createRedisRoutingHistory(deps: RedisRoutingHistoryDeps, options: RedisRoutingHistoryOptions = {}): RoutingHistory {
  const { connection, keys, time = agreeing } = deps;
  const shards = options.shards ?? 1;
  const read = readScript("routed-1");
  const write = readScript("route-1");

  // Every decision needs a prefix, and spelling one takes a hash; there are few scopes.
  const prefixes = new Map<string, string>();
  const prefixOf = ({ scope, keys: [first] }: RoutedChain): string => {
    const shard = first === undefined ? 0 : shardOf(first, shards);
    const name = `${shard} ${scope}`;
    let prefix = prefixes.get(name);
    if (prefix === undefined) {
      prefix = keys.routedPrefix(scope, shard);
      if (prefixes.size >= MAX_PREFIXES_REMEMBERED) prefixes.clear();
      prefixes.set(name, prefix);
    }
    return prefix;
  };

  /** Positions of a slice count from its first key. */
  async function readSlices(
    slices: readonly { readonly n: number; readonly prefix: string; readonly packed: string }[],
    { sinceMs, form, signal }: RoutedLookup,
  ): Promise<readonly ReadonlyMap<EndpointId, RoutedMatch>[]> {
    // The first key of a later slice need not be marked.
    const formOf = (n: number) => (form === "sparse" && n > 0 ? "scattered" : form);
    const calls = slices.map(({ n, prefix, packed }) => ({
      keys: [prefix + packed.slice(0, 16)],
      args: [prefix, packed, time.toStore(sinceMs), formOf(n)],
    }));
    return (await runScript(connection, read, calls, signal)).map(matchesIn);
  }

  async function run(script: RedisScript, routings: readonly Routing[], ttlMs: number): Promise<void> {
    const calls = routings.flatMap(({ chain, endpoint, at }) => {
      const prefix = prefixOf(chain);
      return packedSlices(chain).map((packed) => ({
        keys: [prefix + packed.slice(0, 16)],
        args: [prefix, packed, endpoint, time.toStore(at), ttlMs],
      }));
    });
    if (calls.length > 0) await runScript(connection, script, calls);
  }

  return {
    lookup: async (chains, options) => {
      const slices = chains.flatMap((chain, i) => packedSlices(chain).map((packed, n) => ({ i, n, prefix: prefixOf(chain), packed })));
      const results = chains.map(() => new Map<EndpointId, RoutedMatch>());
      if (slices.length === 0) return results;
      const found = await readSlices(slices, options);
      for (const [s, { i, n }] of slices.entries()) {
        // A later slice reaches further.
        for (const [endpoint, { position, at }] of found[s] ?? []) {
          results[i]?.set(endpoint, { position: n * MAX_KEYS_PER_CALL + position, at: time.toOwn(at) });
        }
      }
      return results;
    },
    record: (routings, ttlMs) => run(write, routings, Math.max(1, Math.ceil(ttlMs))),
    withdraw: (routings) => run(write, routings, 0),
  };
}

function packedSlices({ keys }: RoutedChain): string[] {
  const slices: string[] = [];
  for (let from = 0; from < keys.length; from += MAX_KEYS_PER_CALL) slices.push(keys.slice(from, from + MAX_KEYS_PER_CALL).join(""));
  return slices;
}

function matchesIn(reply: unknown): ReadonlyMap<EndpointId, RoutedMatch> {
  const matches = new Map<EndpointId, RoutedMatch>();
  if (typeof reply !== "string" || reply === "") return matches;
  const lines = reply.split("\n");
  for (let i = 0; i + 2 < lines.length; i += 3) {
    matches.set(lines[i] as EndpointId, { position: Number(lines[i + 1]) - 1, at: Number(lines[i + 2]) });
  }
  return matches;
}
