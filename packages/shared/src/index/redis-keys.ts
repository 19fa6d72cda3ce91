import { createHash } from "node:crypto";
import type { BlockKey, CacheGroupId, EndpointId, EngineHash, Medium, ScopeId } from "../types.ts";

/*
 * The one place that spells Redis keys, hash fields and their values. docs/redis-schema.md describes them for people.
 *
 * Keys that one script touches share a hash tag (`{tag.shard}` or `{endpoint}`), so that they lie in one slot of a cluster.
 * Keys of blocks are many, so they are short: a scope appears in them as a tag of three characters, and 30 characters are the most that Redis
 * keeps in 32 bytes. With a scope's id in its place a block takes 155 bytes instead of 123.
 */

export interface RedisKeys {
  /** HASH: scope id -> JSON. */
  readonly scopes: string;
  /** ZSET: endpoint by last heartbeat, ms. */
  readonly endpoints: string;
  /** HASH: endpoint -> JSON of its load. */
  readonly load: string;
  /** ZSET: instance by last heartbeat, ms. */
  readonly ingesters: string;
  readonly routers: string;
  /** Channel: an endpoint or scope has changed. */
  readonly changes: string;
  /** STRING: the last incarnation number given to any endpoint; numbers are never used twice. */
  readonly incarnations: string;
  /** HASH: task of housekeeping -> JSON of where it stands. */
  readonly housekeeping: string;
  /** HASH: endpoint -> incarnation that its owner is asked to build anew, and why. */
  readonly rebuild: string;
  /** HASH: pool -> JSON of what discovery knows of it. */
  readonly pools: string;
  /** STRING with expiry: the ingester that discovers for all. */
  readonly poolsLease: string;
  /** STRING with expiry: owner of an endpoint. */
  lease(endpoint: EndpointId): string;
  /** HASH: what is known of an endpoint. */
  meta(endpoint: EndpointId): string;
  /** HASH with expiry: endpoint -> work one router has in flight. */
  inflight(routerId: string): string;
  /** HASH with expiry: how well one router's decisions turned out. */
  quality(routerId: string): string;
  /** What precedes the block key in the name of a ZSET with expiry: endpoint by the time it was sent a prompt with that block, ms. */
  routedPrefix(scope: ScopeId, shard: number): string;
  /** Keys of the index in one layout of a scope; `kva:scopes` says which tag is whose. */
  space(tag: string): SpaceKeys;
}

/** Keys of the index under one tag. */
export interface SpaceKeys {
  /** What all of them begin with: tells spaces apart in a scan of everything. */
  readonly prefix: string;
  /** Glob for SCAN that matches the blocks of all shards. */
  readonly blockPattern: string;
  /** HASH: endpoint -> position, see {@link formatPosition}. */
  seq(shard: number): string;
  /** HASH, the index itself: {@link holderField} -> {@link formatEntry}. */
  block(shard: number, key: BlockKey): string;
  /** What `block` puts before the block key. */
  blockPrefix(shard: number): string;
  /** HASH, content scheme only, what one incarnation's engine calls the shard's blocks: {@link nameField} -> block key. */
  names(shard: number, endpoint: EndpointId, incarnation: number): string;
  /** What `names` puts before `<endpoint>:<incarnation>`. */
  namesPrefix(shard: number): string;
  /** Glob for SCAN that matches the blocks and names of all shards. */
  readonly sweepPattern: string;
}

/** @param prefix first part of every key: `[A-Za-z0-9._-]{1,32}` */
export function createRedisKeys(prefix: string): RedisKeys {
  return {
    scopes: `${prefix}:scopes`,
    endpoints: `${prefix}:endpoints`,
    load: `${prefix}:load`,
    ingesters: `${prefix}:ingesters`,
    routers: `${prefix}:routers`,
    changes: `${prefix}:changes`,
    incarnations: `${prefix}:incarnations`,
    housekeeping: `${prefix}:housekeeping`,
    rebuild: `${prefix}:rebuild`,
    pools: `${prefix}:{pools}`,
    poolsLease: `${prefix}:{pools}:lease`,
    lease: (endpoint) => `${prefix}:ep:{${endpoint}}:lease`,
    meta: (endpoint) => `${prefix}:ep:{${endpoint}}:meta`,
    inflight: (routerId) => `${prefix}:inflight:${routerId}`,
    quality: (routerId) => `${prefix}:quality:${routerId}`,
    routedPrefix: (scope, shard) => `${prefix}:{${scopeTag(scope)}.${shard.toString(36)}}:r:`,
    space: (tag) => spaceKeys(`${prefix}:{${tag}.`),
  };
}

function spaceKeys(prefix: string): SpaceKeys {
  // In base 36 one character is enough for 36 shards.
  const blockPrefix = (shard: number) => `${prefix}${shard.toString(36)}}:b:`;
  const namesPrefix = (shard: number) => `${prefix}${shard.toString(36)}}:h:`;
  return {
    prefix,
    blockPattern: `${prefix}*}:b:*`,
    sweepPattern: `${prefix}*}:[bh]:*`,
    names: (shard, endpoint, incarnation) => `${namesPrefix(shard)}${endpoint}:${incarnation}`,
    namesPrefix,
    seq: (shard) => `${prefix}${shard.toString(36)}}:seq`,
    block: (shard, key) => blockPrefix(shard) + key,
    blockPrefix,
  };
}

const TAG_CHARACTERS = 3;
const TAG_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/**
 * A scope in the names of keys: three characters of `[0-9A-Za-z]`, from the SHA-256 of its id.
 *
 * @param generation 0 first; another one gives another tag, when the scope's keys change their layout or somebody else has the tag
 */
export function scopeTag(scope: ScopeId, generation = 0): string {
  const text = generation === 0 ? scope : `${scope}#${generation}`;
  let number = createHash("sha256").update(text).digest().readUInt32BE();
  let tag = "";
  for (let i = 0; i < TAG_CHARACTERS; i++) {
    tag += TAG_ALPHABET.charAt(number % TAG_ALPHABET.length);
    number = Math.floor(number / TAG_ALPHABET.length);
  }
  return tag;
}

/** Hexadecimal digits of a block key. */
export const KEY_DIGITS = 16;

/** Shard of a block key: its leading 16 bits scaled to the number of shards. */
export function shardOf(key: BlockKey, shards: number): number {
  return shards === 1 ? 0 : (Number.parseInt(key.slice(0, 4), 16) * shards) >>> 16;
}

/** Block key at the end of a Redis key that `block` spelled. */
export function blockKeyOf(redisKey: string): BlockKey {
  return redisKey.slice(-KEY_DIGITS) as BlockKey;
}

/** What `block` was given for a Redis key it spelled, with the prefix of its space; null for any other key. */
export function partsOfBlock(redisKey: string): { readonly spacePrefix: string; readonly shard: number; readonly key: BlockKey } | null {
  const match = /^(.+:\{[^{}.]+\.)([0-9a-z]+)\}:b:([0-9a-f]{16})$/.exec(redisKey);
  if (match?.[1] === undefined || match[2] === undefined || match[3] === undefined) return null;
  return { spacePrefix: match[1], shard: Number.parseInt(match[2], 36), key: match[3] as BlockKey };
}

/** What `names` was given for a Redis key it spelled, endpoint and incarnation as they stand in it; null for any other key. */
export function partsOfNames(redisKey: string): { readonly shard: number; readonly owner: string } | null {
  const match = /\.([0-9a-z]+)\}:h:(.+:\d+)$/.exec(redisKey);
  return match?.[1] === undefined || match[2] === undefined ? null : { shard: Number.parseInt(match[1], 36), owner: match[2] };
}

/** Field of a block in its engine's names: the engine's hash, or `<hash>#<group>` for further cache groups, in which the same hash has another life. */
export function nameField(hash: EngineHash, group: CacheGroupId): string {
  return group === 0 ? hash : `${hash}#${group}`;
}

/** Field of a holder in a block's hash: `<endpoint>`, or `<endpoint>#<group>` for further cache groups. */
export function holderField(endpoint: EndpointId, group: CacheGroupId): string {
  return group === 0 ? endpoint : `${endpoint}#${group}`;
}

export interface Holder {
  readonly endpoint: EndpointId;
  readonly group: CacheGroupId;
}

export function parseHolderField(field: string): Holder {
  const mark = field.lastIndexOf("#");
  if (mark === -1) return { endpoint: field as EndpointId, group: 0 };
  return { endpoint: field.slice(0, mark) as EndpointId, group: Number(field.slice(mark + 1)) };
}

/** From the best medium to the worst; the order in which an entry names them. */
export const mediaByRank = ["gpu", "cpu", "storage", "other"] as const satisfies readonly Medium[];

/** Position of a medium in {@link mediaByRank}: 0 is best. */
export function rankOf(medium: Medium): number {
  return mediaByRank.indexOf(medium);
}

/** What one endpoint holds of one block in one cache group. */
export interface Entry {
  readonly incarnation: number;
  /** Copies by medium; a medium without copies is absent. */
  readonly copies: Readonly<Partial<Record<Medium, number>>>;
}

/** `<incarnation>:<medium>[*copies][,<medium>[*copies]...]`, best medium first, e.g. `7:gpu*2,cpu`. */
export function formatEntry(entry: Entry): string {
  const media: string[] = [];
  for (const medium of mediaByRank) {
    const copies = entry.copies[medium] ?? 0;
    if (copies === 1) media.push(medium);
    else if (copies > 1) media.push(`${medium}*${copies}`);
  }
  return `${entry.incarnation}:${media.join(",")}`;
}

/** Inverse of {@link formatEntry}; null for a value that is none. */
export function parseEntry(value: string): Entry | null {
  const colon = value.indexOf(":");
  const incarnation = Number(value.slice(0, Math.max(0, colon)));
  if (colon < 1 || !Number.isSafeInteger(incarnation)) return null;
  const copies: Partial<Record<Medium, number>> = {};
  for (const part of value.slice(colon + 1).split(",")) {
    const [name, count] = part.split("*");
    const medium = mediaByRank.find((known) => known === name);
    const number = count === undefined ? 1 : Number(count);
    if (medium === undefined || !Number.isSafeInteger(number) || number < 1) return null;
    copies[medium] = number;
  }
  return { incarnation, copies };
}

/**
 * How far one endpoint's events are applied in one shard: every batch below `seq`, and of batch `seq` all (`part` null) or
 * the first `part` block operations that fall to the shard.
 */
export interface Watermark {
  readonly seq: number;
  readonly part: number | null;
}

export function compareWatermarks(a: Watermark, b: Watermark): number {
  if (a.seq !== b.seq) return a.seq - b.seq;
  if (a.part === b.part) return 0;
  if (a.part === null) return 1;
  return b.part === null ? -1 : a.part - b.part;
}

/** Highest sequence number of which nothing is missing. */
export function completeSeq(mark: Watermark): number {
  return mark.part === null ? mark.seq : mark.seq - 1;
}

/** A field of a shard's `seq`: who has applied what, under which incarnation. */
export interface Position {
  readonly incarnation: number;
  readonly fence: number;
  readonly mark: Watermark;
}

/** `<incarnation>:<fence>:<seq>[.<part>]`, e.g. `7:1700000000000:4711` or `7:1700000000000:4711.500`. */
export function formatPosition(position: Position): string {
  return `${position.incarnation}:${position.fence}:${formatWatermark(position.mark)}`;
}

export function formatWatermark(mark: Watermark): string {
  return mark.part === null ? String(mark.seq) : `${mark.seq}.${mark.part}`;
}

/** Inverse of {@link formatPosition}; null for a value that is none. */
export function parsePosition(value: string): Position | null {
  const match = /^(\d+):(\d+):(-?\d+)(?:\.(\d+))?$/.exec(value);
  if (match === null) return null;
  return {
    incarnation: Number(match[1]),
    fence: Number(match[2]),
    mark: { seq: Number(match[3]), part: match[4] === undefined ? null : Number(match[4]) },
  };
}
