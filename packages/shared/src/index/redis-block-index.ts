import { LRUCache } from "lru-cache";
import type { RedisConnection } from "../redis.ts";
import { redisError } from "../redis-error.ts";
import { scanPage } from "../redis-scan.ts";
import { type RedisScript, readScript, runScript } from "../redis-scripts.ts";
import type { BlockKey, EndpointId, ScopeId } from "../types.ts";
import type {
  BlockHolder,
  BlockIndex,
  IndexCensus,
  IndexedBlock,
  IndexPosition,
  IndexWriter,
  LookupOptions,
  PrefixMatches,
  PrefixQuery,
  WriterTarget,
} from "./block-index.ts";
import { positionOf } from "./index-census.ts";
import { type RedisHash, readHolders } from "./redis-holders.ts";
import { takeCensus } from "./redis-index-census.ts";
import { openRedisWriter } from "./redis-index-writer.ts";
import { blockKeyOf, parsePosition, type RedisKeys, shardOf } from "./redis-keys.ts";
import { lookupPrefixes } from "./redis-prefix-lookup.ts";

export interface RedisBlockIndexDeps {
  readonly connection: RedisConnection;
  readonly keys: RedisKeys;
}

export interface RedisBlockIndexOptions {
  /** Shards of a scope that the registry does not know yet; must be what the registry registers it with. @defaultValue 1 */
  readonly defaultShards?: number;
  /** Block operations per script call; Redis is busy for 1 to 2 us each. @defaultValue 500 */
  readonly maxOpsPerCall?: number;
}

/** A scope's purge under way, and the one after it when somebody waits for that. */
interface Purge {
  readonly done: Promise<void>;
  next?: Promise<void>;
}

/** Redis is busy for about a millisecond a step. */
const KEYS_PER_PURGE_STEP = 500;

const MAX_SCOPES_REMEMBERED = 1_000;

/** The index in Redis; docs/redis-schema.md shows it from the outside. Does not own its connection. */
export function createRedisBlockIndex(deps: RedisBlockIndexDeps, options: RedisBlockIndexOptions = {}): BlockIndex {
  return new RedisBlockIndex(deps, options);
}

class RedisBlockIndex implements BlockIndex {
  readonly #connection: RedisConnection;
  readonly #keys: RedisKeys;
  readonly #defaultShards: number;
  readonly #maxOpsPerCall: number;
  /** A scope's number of shards never changes once it is registered. */
  readonly #shards = new LRUCache<ScopeId, number>({ max: MAX_SCOPES_REMEMBERED });
  readonly #purges = new Map<ScopeId, Purge>();
  readonly #scripts: {
    readonly apply: RedisScript;
    readonly open: RedisScript;
    readonly sweep: RedisScript;
    readonly read: RedisScript;
    readonly remember: RedisScript;
  };

  constructor(deps: RedisBlockIndexDeps, options: RedisBlockIndexOptions) {
    this.#connection = deps.connection;
    this.#keys = deps.keys;
    this.#defaultShards = options.defaultShards ?? 1;
    this.#maxOpsPerCall = options.maxOpsPerCall ?? 500;
    this.#scripts = {
      apply: readScript("apply-1"),
      open: readScript("open-1"),
      sweep: readScript("sweep-1"),
      read: readScript("read-1"),
      remember: readScript("remember-1"),
    };
  }

  async openWriter(target: WriterTarget): Promise<IndexWriter> {
    const [shards = this.#defaultShards] = await this.#shardsOf([target.scope]);
    const { apply, open } = this.#scripts;
    const purge = () => this.#purge(target.scope);
    const remember = async (incarnation: number) => {
      await runScript(this.#connection, this.#scripts.remember, [{ keys: [this.#keys.incarnations], args: [incarnation] }]);
    };
    return openRedisWriter(
      { connection: this.#connection, keys: this.#keys, apply, open, purge, remember },
      { shards, maxOpsPerCall: this.#maxOpsPerCall },
      target,
    );
  }

  async lookup(queries: readonly PrefixQuery[], options: LookupOptions = {}): Promise<readonly PrefixMatches[]> {
    const shards = await this.#shardsOf(
      queries.map((query) => query.scope),
      options.signal,
    );
    return lookupPrefixes({ connection: this.#connection, keys: this.#keys, read: this.#scripts.read }, queries, shards, options);
  }

  async holders(scope: ScopeId, key: BlockKey): Promise<readonly BlockHolder[]> {
    const [shards = this.#defaultShards] = await this.#shardsOf([scope]);
    const shard = shardOf(key, shards);
    const [entries, positions] = await this.#read([
      ["hgetall", this.#keys.block(scope, shard, key)],
      ["hgetall", this.#keys.seq(scope, shard)],
    ]);
    return readHolders((entries ?? {}) as RedisHash, (positions ?? {}) as RedisHash);
  }

  async forget(scope: ScopeId, endpoint: EndpointId): Promise<void> {
    const [shards = this.#defaultShards] = await this.#shardsOf([scope]);
    await this.#read(Array.from({ length: shards }, (_, shard) => ["hdel", this.#keys.seq(scope, shard), endpoint] as const));
  }

  async sweep(
    scope: ScopeId,
    cursor: string,
    limit: number,
  ): Promise<{ readonly next: string | null; readonly examined: number; readonly dropped: number }> {
    const [shards = this.#defaultShards] = await this.#shardsOf([scope]);
    const { next, keys } = await this.#page(scope, cursor, limit);
    if (keys.length === 0) return { next, examined: 0, dropped: 0 };
    const byShard = new Map<number, string>();
    for (const key of keys) {
      const shard = shardOf(key, shards);
      byShard.set(shard, (byShard.get(shard) ?? "") + key);
    }
    const calls = [...byShard].map(([shard, packed]) => ({
      keys: [this.#keys.seq(scope, shard)],
      args: [this.#keys.blockPrefix(scope, shard), packed],
    }));
    const replies = await runScript(this.#connection, this.#scripts.sweep, calls);
    const dropped = replies.reduce<number>((sum, reply) => sum + Number(reply), 0);
    return { next, examined: keys.length, dropped };
  }

  async walk(
    scope: ScopeId,
    cursor: string,
    limit: number,
  ): Promise<{ readonly next: string | null; readonly blocks: readonly IndexedBlock[] }> {
    const [shards = this.#defaultShards] = await this.#shardsOf([scope]);
    const { next, keys } = await this.#page(scope, cursor, limit);
    const used = [...new Set(keys.map((key) => shardOf(key, shards)))];
    // Positions are read before the blocks: an entry written in between then looks dead, and a second look shows that it is not.
    const replies = await this.#read([
      ...used.map((shard) => ["hgetall", this.#keys.seq(scope, shard)] as const),
      ...keys.map((key) => ["hgetall", this.#keys.block(scope, shardOf(key, shards), key)] as const),
    ]);
    const positions = new Map(used.map((shard, i) => [shard, (replies[i] ?? {}) as RedisHash]));
    const blocks = keys.map((key, i) => ({
      key,
      holders: readHolders((replies[used.length + i] ?? {}) as RedisHash, positions.get(shardOf(key, shards)) ?? {}),
    }));
    return { next, blocks: blocks.filter(({ holders }) => holders.length > 0) };
  }

  async positions(scope: ScopeId): Promise<ReadonlyMap<EndpointId, IndexPosition>> {
    const [shards = this.#defaultShards] = await this.#shardsOf([scope]);
    const replies = await this.#read(Array.from({ length: shards }, (_, shard) => ["hgetall", this.#keys.seq(scope, shard)] as const));
    const endpoints = new Set(replies.flatMap((fields) => Object.keys((fields ?? {}) as RedisHash) as EndpointId[]));
    const positions = new Map<EndpointId, IndexPosition>();
    for (const endpoint of endpoints) {
      const position = positionOf(replies.map((fields) => parsePosition(((fields ?? {}) as RedisHash)[endpoint] ?? "")));
      if (position !== null) positions.set(endpoint, position);
    }
    return positions;
  }

  async census(maxKeys: number): Promise<IndexCensus> {
    return takeCensus({ connection: this.#connection, keys: this.#keys }, maxKeys);
  }

  async close(): Promise<void> {}

  /**
   * Drops all dead entries of a scope that were there when it was called. Many writers may ask at once, after Redis has lost something: those that
   * come while a purge is under way share the next one.
   */
  #purge(scope: ScopeId): Promise<void> {
    const running = this.#purges.get(scope);
    if (running?.next !== undefined) return running.next;
    const purge: Purge = { done: (running?.done ?? Promise.resolve()).catch(() => {}).then(() => this.#sweepAll(scope, purge)) };
    if (running === undefined) this.#purges.set(scope, purge);
    else running.next = purge.done;
    return purge.done;
  }

  async #sweepAll(scope: ScopeId, purge: Purge): Promise<void> {
    this.#purges.set(scope, purge);
    try {
      for (let cursor: string | null = "0"; cursor !== null; ) cursor = (await this.sweep(scope, cursor, KEYS_PER_PURGE_STEP)).next;
    } finally {
      if (purge.next === undefined) this.#purges.delete(scope);
    }
  }

  /** A page of a scan over a scope's blocks. A key may come twice. */
  async #page(
    scope: ScopeId,
    cursor: string,
    limit: number,
  ): Promise<{ readonly next: string | null; readonly keys: readonly BlockKey[] }> {
    const { next, keys } = await scanPage(this.#connection, cursor, limit, this.#keys.blockPattern(scope));
    return { next, keys: keys.map(blockKeyOf) };
  }

  /** Number of shards of each scope; read once for each that is registered. */
  async #shardsOf(scopes: readonly ScopeId[], signal?: AbortSignal): Promise<readonly number[]> {
    const unknown = [...new Set(scopes)].filter((scope) => !this.#shards.has(scope));
    if (unknown.length > 0) {
      const [values] = await this.#read([["hmget", this.#keys.scopes, ...unknown]], signal);
      for (const [i, scope] of unknown.entries()) {
        const shards = shardsIn(Array.isArray(values) ? values[i] : null);
        if (shards !== null) this.#shards.set(scope, shards);
      }
    }
    return scopes.map((scope) => this.#shards.get(scope) ?? this.#defaultShards);
  }

  async #read(commands: Parameters<RedisConnection["send"]>[0], signal?: AbortSignal): Promise<readonly unknown[]> {
    const replies = await this.#connection.send(commands, signal);
    for (const reply of replies) if (reply instanceof Error) throw redisError(reply);
    return replies;
  }
}

/** `shards` of a scope's JSON; null when there is none. */
function shardsIn(json: unknown): number | null {
  if (typeof json !== "string") return null;
  try {
    const { shards } = JSON.parse(json) as { readonly shards?: unknown };
    return typeof shards === "number" && Number.isInteger(shards) && shards >= 1 ? shards : null;
  } catch {
    return null;
  }
}
