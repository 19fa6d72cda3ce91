import type { RedisConnection } from "../redis.ts";
import { type RedisScript, runScript } from "../redis-scripts.ts";
import type { BlockKey, CacheGroupId, EndpointId } from "../types.ts";
import type { LookupOptions, PrefixMatch, PrefixMatches, PrefixQuery } from "./block-index.ts";
import { type HybridLayout, hybridHit } from "./hybrid-hit.ts";
import { ABSENT, exactMatch, layoutsOf, matchOf, prefixRank } from "./prefix-match.ts";
import { firstPositions, PrefixProbe } from "./prefix-probe.ts";
import { holderField, mediaByRank, parsePosition, type RedisKeys, type SpaceKeys, shardOf } from "./redis-keys.ts";
import type { ScopeLayout } from "./scope-layout.ts";

export interface PrefixLookupDeps {
  readonly connection: RedisConnection;
  readonly keys: RedisKeys;
  /** read-1.lua */
  readonly read: RedisScript;
}

/** Blocks read by one script call; bounds how long Redis is busy at a time. */
const MAX_READS_PER_CALL = 500;

/** Script calls sent in one go; longer exact lookups take several round trips. */
const MAX_CALLS_PER_SEND = 16;

/** First letters of the media: an entry names its best medium first. */
const rankByLetter = new Map(mediaByRank.map((medium, rank) => [medium.charCodeAt(0), rank]));

/** One call of read-1.lua, and where its answer goes. */
interface ReadCall {
  readonly reader: ChainReader;
  readonly shard: number;
  readonly positions: readonly number[];
  readonly withSeq: boolean;
}

/** A query on its way: what has been read, and what to read next. */
class ChainReader {
  readonly query: PrefixQuery;
  readonly #shards: number;
  readonly #space: SpaceKeys;
  readonly #endpoints = new Set<EndpointId>();
  /** How a live entry begins in a block's text, by holder field: line feed, field, line feed, current incarnation, colon. */
  readonly #beginnings = new Map<string, string>();
  readonly #incarnations = new Map<EndpointId, number>();
  /** By position, as read-1.lua answers; undefined where nothing has been read. */
  readonly #blocks: (string | undefined)[];

  constructor(query: PrefixQuery, keys: RedisKeys, { tag, shards }: ScopeLayout) {
    this.query = query;
    this.#space = keys.space(tag);
    this.#shards = shards;
    this.#blocks = new Array<string | undefined>(query.keys.length).fill(undefined);
  }

  /** Calls that read these positions; with the positions of all endpoints in the shard of the first one, when that is asked for. */
  calls(positions: readonly number[], withSeq: boolean): ReadCall[] {
    const byShard = new Map<number, number[]>();
    for (const position of positions) {
      const shard = shardOf(this.#key(position), this.#shards);
      const list = byShard.get(shard);
      if (list === undefined) byShard.set(shard, [position]);
      else list.push(position);
    }
    const calls: ReadCall[] = [];
    for (const [shard, list] of byShard) {
      for (let from = 0; from < list.length; from += MAX_READS_PER_CALL) {
        const part = list.length <= MAX_READS_PER_CALL ? list : list.slice(from, from + MAX_READS_PER_CALL);
        calls.push({ reader: this, shard, positions: part, withSeq: withSeq && calls.length === 0 });
      }
    }
    return calls;
  }

  /** Keys and arguments of a call. */
  scriptCall({ shard, positions, withSeq }: ReadCall): { readonly keys: readonly string[]; readonly args: readonly (string | number)[] } {
    let packed = "";
    for (const position of positions) packed += this.#key(position);
    return { keys: [this.#space.seq(shard)], args: [this.#space.blockPrefix(shard), packed, withSeq ? 1 : 0] };
  }

  accept({ positions, withSeq }: ReadCall, reply: unknown): void {
    const texts = Array.isArray(reply) ? reply : [];
    if (withSeq) this.#setPositions(String(texts[0] ?? ""));
    for (const [i, position] of positions.entries()) this.#blocks[position] = String(texts[i + 1] ?? "");
  }

  hasRead(position: number): boolean {
    return this.#blocks[position] !== undefined;
  }

  unread(from: number, to: number): number[] {
    const positions: number[] = [];
    for (let position = from; position < to; position += 1) if (this.#blocks[position] === undefined) positions.push(position);
    return positions;
  }

  get endpoints(): Iterable<EndpointId> {
    return this.#endpoints;
  }

  readonly rankAt = (position: number, endpoint: EndpointId, group: CacheGroupId): number => {
    const block = this.#blocks[position];
    if (block === undefined || block === "") return ABSENT;
    const beginning = this.#beginning(endpoint, group);
    if (beginning === null) return ABSENT;
    const at = block.indexOf(beginning);
    return at === -1 ? ABSENT : (rankByLetter.get(block.charCodeAt(at + beginning.length)) ?? ABSENT);
  };

  #setPositions(text: string): void {
    const lines = text.split("\n");
    // A line feed precedes the first field.
    for (let i = 1; i + 1 < lines.length; i += 2) {
      const endpoint = lines[i] as EndpointId;
      const position = parsePosition(lines[i + 1] ?? "");
      if (position === null) continue;
      this.#endpoints.add(endpoint);
      this.#incarnations.set(endpoint, position.incarnation);
    }
  }

  #beginning(endpoint: EndpointId, group: CacheGroupId): string | null {
    const field = holderField(endpoint, group);
    const known = this.#beginnings.get(field);
    if (known !== undefined) return known;
    const incarnation = this.#incarnations.get(endpoint);
    if (incarnation === undefined) return null;
    const beginning = `\n${field}\n${incarnation}:`;
    this.#beginnings.set(field, beginning);
    return beginning;
  }

  #key(position: number): BlockKey {
    const key = this.query.keys[position];
    if (key === undefined) throw new RangeError(`position ${position} of ${this.query.keys.length}`);
    return key;
  }
}

/**
 * Looks chains up in Redis. All chains go through their rounds together: a round is one round trip, however many they are.
 *
 * @param layouts of each query's scope
 */
export async function lookupPrefixes(
  deps: PrefixLookupDeps,
  queries: readonly PrefixQuery[],
  layouts: readonly ScopeLayout[],
  options: LookupOptions,
): Promise<readonly PrefixMatches[]> {
  const underWay = new Map(
    queries.flatMap((query, i) => {
      const layout = layouts[i];
      return layout === undefined ? [] : [[i, matchChain(new ChainReader(query, deps.keys, layout), options.method ?? "probe")] as const];
    }),
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
    await readRound(deps, round, isFirst, options.signal);
    isFirst = false;
  }
}

async function readRound(
  { connection, read }: PrefixLookupDeps,
  round: readonly { readonly reader: ChainReader; readonly positions: readonly number[] }[],
  isFirst: boolean,
  signal: AbortSignal | undefined,
): Promise<void> {
  const calls = round.flatMap(({ reader, positions }) => reader.calls(positions, isFirst));
  for (let from = 0; from < calls.length; from += MAX_CALLS_PER_SEND) {
    const part = calls.slice(from, from + MAX_CALLS_PER_SEND);
    const replies = await runScript(
      connection,
      read,
      part.map((call) => call.reader.scriptCall(call)),
      signal,
    );
    for (const [i, call] of part.entries()) call.reader.accept(call, replies[i]);
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
