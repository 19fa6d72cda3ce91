import type { RedisCommand, RedisConnection, RedisReply } from "../redis.ts";
import { redisError } from "../redis-error.ts";
import type { CacheGroupId, EndpointId } from "../types.ts";
import type { LookupOptions, PrefixMatch, PrefixMatches, PrefixQuery } from "./block-index.ts";
import { type HybridLayout, hybridHit } from "./hybrid-hit.ts";
import { ABSENT, exactMatch, layoutsOf, matchOf, prefixRank } from "./prefix-match.ts";
import { firstPositions, PrefixProbe } from "./prefix-probe.ts";
import { holderField, mediaByRank, type RedisKeys, shardOf } from "./redis-keys.ts";

/** Answer to HGETALL. */
type Hash = Readonly<Record<string, string>>;

const NOTHING: Hash = {};

/** Blocks read in one go; longer exact lookups take several, one after another. */
const MAX_READS_PER_SEND = 4_096;

/** First letters of the media: an entry names its best medium first. */
const rankByLetter = new Map(mediaByRank.map((medium, rank) => [medium.charCodeAt(0), rank]));

/** A query on its way: what has been read, and what to read next. */
class ChainReader {
  readonly query: PrefixQuery;
  readonly seqKey: string;
  readonly #shards: number;
  /** What precedes the block key in a key of each shard. */
  readonly #prefixes: readonly string[];
  /** Incarnation of every live endpoint, as entries of it begin (`7:`). */
  readonly #live = new Map<EndpointId, string>();
  /** By position; undefined where nothing has been read. */
  readonly #blocks: (Hash | undefined)[];

  constructor(query: PrefixQuery, keys: RedisKeys, shards: number) {
    this.query = query;
    this.#shards = shards;
    this.#prefixes = Array.from({ length: shards }, (_, shard) => keys.blockPrefix(query.scope, shard));
    // Filled with holes on purpose: positions are written at random.
    this.#blocks = new Array<Hash | undefined>(query.keys.length);
    const [first] = query.keys;
    this.seqKey = keys.seq(query.scope, first === undefined ? 0 : shardOf(first, shards));
  }

  setPositions(positions: Hash): void {
    for (const endpoint in positions) {
      const position = positions[endpoint] ?? "";
      this.#live.set(endpoint as EndpointId, position.slice(0, position.indexOf(":") + 1));
    }
  }

  setBlock(position: number, entries: Hash): void {
    this.#blocks[position] = entries;
  }

  hasRead(position: number): boolean {
    return this.#blocks[position] !== undefined;
  }

  unread(from: number, to: number): number[] {
    const positions: number[] = [];
    for (let position = from; position < to; position += 1) if (this.#blocks[position] === undefined) positions.push(position);
    return positions;
  }

  readCommand(position: number): RedisCommand {
    const key = this.query.keys[position];
    if (key === undefined) throw new RangeError(`position ${position} of ${this.query.keys.length}`);
    return ["hgetall", (this.#prefixes[shardOf(key, this.#shards)] ?? "") + key];
  }

  get endpoints(): Iterable<EndpointId> {
    return this.#live.keys();
  }

  readonly rankAt = (position: number, endpoint: EndpointId, group: CacheGroupId): number => {
    const entry = this.#blocks[position]?.[holderField(endpoint, group)];
    if (entry === undefined) return ABSENT;
    const prefix = this.#live.get(endpoint);
    if (prefix === undefined || !entry.startsWith(prefix)) return ABSENT;
    return rankByLetter.get(entry.charCodeAt(prefix.length)) ?? ABSENT;
  };
}

/**
 * Looks chains up in Redis. All chains go through their rounds together: a round is one round trip, however many they are.
 *
 * @param shards number of shards of each query's scope
 */
export async function lookupPrefixes(
  connection: RedisConnection,
  keys: RedisKeys,
  queries: readonly PrefixQuery[],
  shards: readonly number[],
  options: LookupOptions,
): Promise<readonly PrefixMatches[]> {
  const underWay = new Map(
    queries.map((query, i) => [i, matchChain(new ChainReader(query, keys, shards[i] ?? 1), options.method ?? "probe")] as const),
  );
  const results: PrefixMatches[] = queries.map(() => new Map());
  let isFirst = true;
  for (;;) {
    const round: { readonly reader: ChainReader; readonly positions: readonly number[] }[] = [];
    for (const [i, lookup] of underWay) {
      const step = lookup.next();
      if (!step.done) {
        round.push(step.value);
        continue;
      }
      results[i] = step.value;
      underWay.delete(i);
    }
    if (round.length === 0) return results;
    await readRound(connection, round, isFirst, options.signal);
    isFirst = false;
  }
}

async function readRound(
  connection: RedisConnection,
  round: readonly { readonly reader: ChainReader; readonly positions: readonly number[] }[],
  isFirst: boolean,
  signal: AbortSignal | undefined,
): Promise<void> {
  const commands: RedisCommand[] = [];
  if (isFirst) for (const { reader } of round) commands.push(["hgetall", reader.seqKey]);
  for (const { reader, positions } of round) for (const position of positions) commands.push(reader.readCommand(position));
  const replies: RedisReply[] = [];
  for (let from = 0; from < commands.length; from += MAX_READS_PER_SEND) {
    const part = commands.length <= MAX_READS_PER_SEND ? commands : commands.slice(from, from + MAX_READS_PER_SEND);
    for (const reply of await connection.send(part, signal)) replies.push(reply);
  }
  let at = 0;
  if (isFirst) {
    for (const { reader } of round) {
      reader.setPositions(hashOf(replies[at]));
      at += 1;
    }
  }
  for (const { reader, positions } of round) {
    for (const position of positions) {
      reader.setBlock(position, hashOf(replies[at]));
      at += 1;
    }
  }
}

/** One chain's lookup: yields what to read next, goes on when it has been read, returns the matches. */
function* matchChain(
  reader: ChainReader,
  method: "probe" | "exact",
): Generator<{ readonly reader: ChainReader; readonly positions: readonly number[] }, PrefixMatches> {
  const matches = new Map<EndpointId, PrefixMatch>();
  const blocks = reader.query.keys.length;
  if (blocks === 0) return matches;
  const layouts = layoutsOf(reader.query.groups);
  // Prefixes that are not defined block by block by full attention cannot be probed.
  const isProbed = method === "probe" && [...layouts.values()].every((layout) => layout.uniform && layout.full.length > 0);
  if (!isProbed) {
    yield { reader, positions: reader.unread(0, blocks) };
    for (const endpoint of reader.endpoints) {
      const match = exactMatch(blocks, endpoint, layouts.get(endpoint), reader.rankAt);
      if (match !== null) matches.set(endpoint, match);
    }
    return matches;
  }

  yield { reader, positions: firstPositions(blocks) };
  const rankAt = (position: number, endpoint: EndpointId) => prefixRank(layouts.get(endpoint), position, endpoint, reader.rankAt);
  const endpoints = [...reader.endpoints].filter((endpoint) => rankAt(0, endpoint) < ABSENT);
  const probe = new PrefixProbe(blocks, endpoints, rankAt);
  for (let positions = probe.next(); positions.length > 0; positions = probe.next()) {
    yield { reader, positions };
    probe.observe(positions);
  }

  const prefixes = new Map(endpoints.map((endpoint, i) => [endpoint, probe.lengths(i)]));
  const windowed: { readonly endpoint: EndpointId; readonly layout: HybridLayout; readonly prefix: number }[] = [];
  for (const [endpoint, lengths] of prefixes) {
    const layout = layouts.get(endpoint);
    if (layout !== undefined && layout.sliding.length > 0) windowed.push({ endpoint, layout, prefix: lengths.at(-1) ?? 0 });
    else setMatch(matches, endpoint, lengths, blocks);
  }
  if (windowed.length === 0) return matches;

  yield* readUnread(
    reader,
    windowed.flatMap(({ layout, prefix }) => reader.unread(Math.max(0, prefix - longestWindow(layout)), prefix)),
  );
  let hits = windowed.map((candidate) => windowedHit(reader, candidate));
  const unconfirmed = windowed.filter((_, i) => hits[i] === null);
  if (unconfirmed.length > 0) {
    yield* readUnread(reader, reader.unread(0, Math.max(...unconfirmed.map(({ prefix }) => prefix))));
    hits = windowed.map((candidate) => windowedHit(reader, candidate));
  }
  for (const [i, { endpoint }] of windowed.entries()) setMatch(matches, endpoint, prefixes.get(endpoint) ?? [], hits[i] ?? 0);
  return matches;
}

function* readUnread(
  reader: ChainReader,
  positions: readonly number[],
): Generator<{ reader: ChainReader; positions: readonly number[] }, void> {
  if (positions.length > 0) yield { reader, positions: [...new Set(positions)].sort((a, b) => a - b) };
}

function longestWindow(layout: HybridLayout): number {
  return Math.max(...layout.sliding.map((group) => group.windowBlocks));
}

/** The hit that the sliding groups confirm within a full-attention prefix; null when it depends on a block that has not been read. */
function windowedHit(
  reader: ChainReader,
  { endpoint, layout, prefix }: { readonly endpoint: EndpointId; readonly layout: HybridLayout; readonly prefix: number },
): number | null {
  let isConfirmed = true;
  const hit = hybridHit({ ...layout, full: [] }, prefix, (group, position) => {
    if (!reader.hasRead(position)) isConfirmed = false;
    return reader.rankAt(position, endpoint, group) < ABSENT;
  });
  return isConfirmed ? hit : null;
}

/** @param lengths prefix held in a medium of each rank or better */
function setMatch(matches: Map<EndpointId, PrefixMatch>, endpoint: EndpointId, lengths: readonly number[], limit: number): void {
  const capped = lengths.map((length) => Math.min(length, limit));
  const counts = capped.map((length, rank) => length - (capped[rank - 1] ?? 0));
  const match = matchOf(capped.at(-1) ?? 0, counts);
  if (match !== null) matches.set(endpoint, match);
}

function hashOf(reply: RedisReply): Hash {
  if (reply instanceof Error) throw redisError(reply);
  return typeof reply === "object" && reply !== null ? (reply as Hash) : NOTHING;
}
