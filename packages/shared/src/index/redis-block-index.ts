import { type Clock, systemClock } from "../clock.ts";
import type { RedisConnection } from "../redis.ts";
import { redisError } from "../redis-error.ts";
import { scanPage } from "../redis-scan.ts";
import { type RedisScript, readScript, runScript } from "../redis-scripts.ts";
import type { BlockKey, EndpointId, ScopeId } from "../types.ts";
import type {
  BlockHolder,
  BlockIndex,
  BlockName,
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
import { readBlockNames } from "./redis-block-names.ts";
import { type RedisHash, readHolders } from "./redis-holders.ts";
import { takeCensus } from "./redis-index-census.ts";
import { forgetCommands, openRedisWriter } from "./redis-index-writer.ts";
import { blockKeyOf, parsePosition, partsOfNames, type RedisKeys, type SpaceKeys, shardOf } from "./redis-keys.ts";
import { lookupPrefixes } from "./redis-prefix-lookup.ts";
import { RedisScopeLayouts } from "./redis-scope-layouts.ts";
import { layoutsOf, SCHEMA_VERSION, type ScopeLayout, scopeField } from "./scope-layout.ts";

export interface RedisBlockIndexDeps {
  readonly connection: RedisConnection;
  readonly keys: RedisKeys;
  /** @defaultValue the system's */
  readonly clock?: Clock;
}

export interface RedisBlockIndexOptions {
  /** Shards of a scope that nobody has registered. @defaultValue 1 */
  readonly defaultShards?: number;
  /** Block operations per script call; Redis is busy for 1 to 2 us each. @defaultValue 500 */
  readonly maxOpsPerCall?: number;
}

/** A layout's purge under way, and the one after it when somebody waits for that. */
interface Purge {
  readonly done: Promise<void>;
  next?: Promise<void>;
}

/** Redis is busy for about a millisecond a step. */
const KEYS_PER_PURGE_STEP = 500;

/** Nobody registers a scope and takes longer than this to write its first position. */
const UNUSED_AFTER_MS = 600_000;

/** The index in Redis; docs/redis-schema.md shows it from the outside. Does not own its connection. */
export function createRedisBlockIndex(deps: RedisBlockIndexDeps, options: RedisBlockIndexOptions = {}): BlockIndex {
  return new RedisBlockIndex(deps, options);
}

class RedisBlockIndex implements BlockIndex {
  readonly #connection: RedisConnection;
  readonly #keys: RedisKeys;
  readonly #clock: Clock;
  readonly #layouts: RedisScopeLayouts;
  readonly #maxOpsPerCall: number;
  /** By tag. */
  readonly #purges = new Map<string, Purge>();
  readonly #scripts: {
    readonly apply: RedisScript;
    readonly open: RedisScript;
    readonly sweep: RedisScript;
    readonly find: RedisScript;
    readonly read: RedisScript;
    readonly remember: RedisScript;
  };

  constructor(deps: RedisBlockIndexDeps, options: RedisBlockIndexOptions) {
    this.#connection = deps.connection;
    this.#keys = deps.keys;
    this.#clock = deps.clock ?? systemClock;
    this.#layouts = new RedisScopeLayouts({ ...deps, clock: this.#clock }, options.defaultShards ?? 1);
    this.#maxOpsPerCall = options.maxOpsPerCall ?? 500;
    this.#scripts = {
      apply: readScript("apply-1"),
      open: readScript("open-1"),
      sweep: readScript("sweep-1"),
      find: readScript("find-1"),
      read: readScript("read-1"),
      remember: readScript("remember-1"),
    };
  }

  async openWriter(target: WriterTarget): Promise<IndexWriter> {
    const { apply, open } = this.#scripts;
    const remember = async (incarnation: number) => {
      await runScript(this.#connection, this.#scripts.remember, [{ keys: [this.#keys.incarnations], args: [incarnation] }]);
    };
    return openRedisWriter(
      {
        connection: this.#connection,
        keys: this.#keys,
        clock: this.#clock,
        layouts: this.#layouts,
        apply,
        open,
        purge: (layout) => this.#purge(layout),
        remember,
      },
      { maxOpsPerCall: this.#maxOpsPerCall },
      target,
    );
  }

  async lookup(queries: readonly PrefixQuery[], options: LookupOptions = {}): Promise<readonly PrefixMatches[]> {
    const layouts = await this.#layouts.forReading(
      queries.map((query) => query.scope),
      options.signal,
    );
    return lookupPrefixes({ connection: this.#connection, keys: this.#keys, scripts: this.#scripts }, queries, layouts, options);
  }

  async holders(scope: ScopeId, key: BlockKey): Promise<readonly BlockHolder[]> {
    const { tag, shards } = await this.#layoutOf(scope);
    const [shard, space] = [shardOf(key, shards), this.#keys.space(tag)];
    const [entries, positions] = await this.#read([
      ["hgetall", space.block(shard, key)],
      ["hgetall", space.seq(shard)],
    ]);
    return readHolders((entries ?? {}) as RedisHash, (positions ?? {}) as RedisHash);
  }

  async keysOf(
    scope: ScopeId,
    holder: { readonly endpoint: EndpointId; readonly incarnation: number },
    names: readonly BlockName[],
  ): Promise<readonly (BlockKey | null)[]> {
    const { tag, shards } = await this.#layoutOf(scope);
    return readBlockNames(this.#connection, { space: this.#keys.space(tag), shards }, holder, names);
  }

  async forget(scope: ScopeId, endpoint: EndpointId): Promise<void> {
    const { layout, others } = await this.#layouts.read(scope);
    await this.#read([layout, ...others].flatMap(({ tag, shards }) => forgetCommands(this.#keys.space(tag), shards, endpoint)));
  }

  async sweep(
    scope: ScopeId,
    cursor: string,
    limit: number,
  ): Promise<{ readonly next: string | null; readonly examined: number; readonly dropped: number }> {
    return this.#sweep(await this.#layoutOf(scope), cursor, limit);
  }

  async reclaim(
    used: ReadonlySet<ScopeId>,
    cursor: string,
    limit: number,
  ): Promise<{ readonly next: string | null; readonly examined: number; readonly dropped: number }> {
    const [, reached = "", at = "0"] = /^([0-9A-Za-z]+):(.+)$/.exec(cursor) ?? [];
    const remains = (await this.#remains(used)).filter(({ layout }) => layout.tag >= reached);
    const [remnant, following] = remains;
    if (remnant === undefined) return { next: null, examined: 0, dropped: 0 };
    const { tag } = remnant.layout;
    const after = following === undefined ? null : `${following.layout.tag}:0`;
    if (await this.#hasPositions(remnant.layout)) return { next: after, examined: 0, dropped: 0 };
    const slice = await this.#sweep(remnant.layout, tag === reached ? at : "0", limit);
    if (slice.next !== null) return { ...slice, next: `${tag}:${slice.next}` };
    if (!(await this.#hasPositions(remnant.layout))) await remnant.remove();
    return { ...slice, next: after };
  }

  async walk(
    scope: ScopeId,
    cursor: string,
    limit: number,
  ): Promise<{ readonly next: string | null; readonly blocks: readonly IndexedBlock[] }> {
    const { tag, shards } = await this.#layoutOf(scope);
    const space = this.#keys.space(tag);
    const { next, keys } = await this.#page(space, cursor, limit);
    const used = [...new Set(keys.map((key) => shardOf(key, shards)))];
    // Positions are read before the blocks: an entry written in between then looks dead, and a second look shows that it is not.
    const replies = await this.#read([
      ...used.map((shard) => ["hgetall", space.seq(shard)] as const),
      ...keys.map((key) => ["hgetall", space.block(shardOf(key, shards), key)] as const),
    ]);
    const positions = new Map(used.map((shard, i) => [shard, (replies[i] ?? {}) as RedisHash]));
    const blocks = keys.map((key, i) => ({
      key,
      holders: readHolders((replies[used.length + i] ?? {}) as RedisHash, positions.get(shardOf(key, shards)) ?? {}),
    }));
    return { next, blocks: blocks.filter(({ holders }) => holders.length > 0) };
  }

  async positions(scope: ScopeId): Promise<ReadonlyMap<EndpointId, IndexPosition>> {
    const { tag, shards } = await this.#layoutOf(scope);
    const space = this.#keys.space(tag);
    const replies = await this.#read(Array.from({ length: shards }, (_, shard) => ["hgetall", space.seq(shard)] as const));
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

  async #layoutOf(scope: ScopeId): Promise<ScopeLayout> {
    const [layout] = await this.#layouts.forReading([scope]);
    return layout ?? (await this.#layouts.read(scope)).layout;
  }

  /**
   * What nobody is meant to use, by tag: former layouts, scopes of earlier schema versions, and scopes without an endpoint. A scope of a later version
   * is its own business.
   */
  async #remains(
    used: ReadonlySet<ScopeId>,
  ): Promise<readonly { readonly layout: ScopeLayout; readonly remove: () => Promise<unknown> }[]> {
    const remains: { readonly layout: ScopeLayout; readonly remove: () => Promise<unknown> }[] = [];
    for (const entry of await this.#layouts.entries()) {
      const layouts = layoutsOf(entry.text);
      if (layouts === null || entry.version > SCHEMA_VERSION) continue;
      for (const layout of layouts.former) remains.push({ layout, remove: () => this.#layouts.removeFormer(entry.field, layout) });
      const isPast = entry.field !== scopeField(entry.scope);
      const isUnused = !used.has(entry.scope) && !(this.#clock.now() - layouts.createdAt < UNUSED_AFTER_MS);
      // Once its former layouts are gone: they are listed nowhere else.
      if ((isPast || isUnused) && layouts.former.length === 0) {
        remains.push({ layout: layouts.current, remove: () => this.#layouts.remove(entry) });
      }
    }
    return remains.sort((a, b) => (a.layout.tag < b.layout.tag ? -1 : 1));
  }

  async #hasPositions({ tag, shards }: ScopeLayout): Promise<boolean> {
    const space = this.#keys.space(tag);
    const counts = await this.#read(Array.from({ length: shards }, (_, shard) => ["exists", space.seq(shard)] as const));
    return counts.some((count) => count !== 0);
  }

  async #sweep(
    { tag, shards }: ScopeLayout,
    cursor: string,
    limit: number,
  ): Promise<{ readonly next: string | null; readonly examined: number; readonly dropped: number }> {
    const space = this.#keys.space(tag);
    const { next, keys } = await scanPage(this.#connection, cursor, limit, space.sweepPattern);
    if (keys.length === 0) return { next, examined: 0, dropped: 0 };
    const byShard = new Map<number, { blocks: string; readonly names: string[] }>();
    const found = (shard: number) => {
      const those = byShard.get(shard) ?? { blocks: "", names: [] };
      byShard.set(shard, those);
      return those;
    };
    for (const redisKey of keys) {
      const names = partsOfNames(redisKey);
      if (names !== null) {
        found(names.shard).names.push(names.owner);
        continue;
      }
      const key = blockKeyOf(redisKey);
      found(shardOf(key, shards)).blocks += key;
    }
    const calls = [...byShard].map(([shard, { blocks, names }]) => ({
      keys: [space.seq(shard)],
      args: [space.blockPrefix(shard), blocks, space.namesPrefix(shard), ...names],
    }));
    const replies = await runScript(this.#connection, this.#scripts.sweep, calls);
    const dropped = replies.reduce<number>((sum, reply) => sum + Number(reply), 0);
    return { next, examined: keys.length, dropped };
  }

  /**
   * Drops all dead entries of a layout that were there when it was called. Many writers may ask at once, after Redis has lost something: those that
   * come while a purge is under way share the next one.
   */
  #purge(layout: ScopeLayout): Promise<void> {
    const running = this.#purges.get(layout.tag);
    if (running?.next !== undefined) return running.next;
    const purge: Purge = { done: (running?.done ?? Promise.resolve()).catch(() => {}).then(() => this.#sweepAll(layout, purge)) };
    if (running === undefined) this.#purges.set(layout.tag, purge);
    else running.next = purge.done;
    return purge.done;
  }

  async #sweepAll(layout: ScopeLayout, purge: Purge): Promise<void> {
    this.#purges.set(layout.tag, purge);
    try {
      for (let cursor: string | null = "0"; cursor !== null; ) cursor = (await this.#sweep(layout, cursor, KEYS_PER_PURGE_STEP)).next;
    } finally {
      if (purge.next === undefined) this.#purges.delete(layout.tag);
    }
  }

  /** A page of a scan over the blocks of a layout. A key may come twice. */
  async #page(
    space: SpaceKeys,
    cursor: string,
    limit: number,
  ): Promise<{ readonly next: string | null; readonly keys: readonly BlockKey[] }> {
    const { next, keys } = await scanPage(this.#connection, cursor, limit, space.blockPattern);
    return { next, keys: keys.map(blockKeyOf) };
  }

  async #read(commands: Parameters<RedisConnection["send"]>[0], signal?: AbortSignal): Promise<readonly unknown[]> {
    const replies = await this.#connection.send(commands, signal);
    for (const reply of replies) if (reply instanceof Error) throw redisError(reply);
    return replies;
  }
}
