import type { RedisConnection } from "../redis.ts";
import { type RedisScript, runScript } from "../redis-scripts.ts";
import type { EndpointId } from "../types.ts";
import type { LookupOptions, PrefixMatch, PrefixMatches, PrefixQuery } from "./block-index.ts";
import { type HybridLayout, hybridHit } from "./hybrid-hit.ts";
import { ABSENT, exactMatch, layoutsOf, matchOf } from "./prefix-match.ts";
import { ChainReader } from "./redis-chain-reader.ts";
import type { RedisKeys } from "./redis-keys.ts";
import { PrefixSearch } from "./redis-prefix-search.ts";
import type { ReadCall } from "./redis-read-call.ts";
import type { ScopeLayout } from "./scope-layout.ts";

export interface PrefixLookupDeps {
  readonly connection: RedisConnection;
  readonly keys: RedisKeys;
  readonly scripts: { readonly find: RedisScript; readonly read: RedisScript };
}

/** Script calls sent in one go; longer exact lookups take several round trips. */
const MAX_CALLS_PER_SEND = 64;

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
  const match = options.method === "exact" ? matchExactly : matchBySearch;
  const underWay = new Map(
    queries.flatMap((query, i) => {
      const layout = layouts[i];
      return layout === undefined || query.keys.length === 0 ? [] : [[i, match(query, deps.keys, layout)] as const];
    }),
  );
  const results: PrefixMatches[] = queries.map(() => new Map());
  for (;;) {
    const round: ReadCall[] = [];
    for (const [i, lookup] of underWay) {
      const step = lookup.next();
      if (!step.done) {
        round.push(...step.value);
        continue;
      }
      results[i] = step.value;
      underWay.delete(i);
    }
    if (round.length === 0) return results;
    await readRound(deps, round, options.signal);
  }
}

async function readRound(deps: PrefixLookupDeps, round: readonly ReadCall[], signal: AbortSignal | undefined): Promise<void> {
  for (let from = 0; from < round.length; from += MAX_CALLS_PER_SEND) {
    const part = round.slice(from, from + MAX_CALLS_PER_SEND);
    await Promise.all((["find", "read"] as const).map((script) => runCalls(deps, script, part, signal)));
  }
}

async function runCalls(
  { connection, scripts }: PrefixLookupDeps,
  script: ReadCall["script"],
  calls: readonly ReadCall[],
  signal: AbortSignal | undefined,
): Promise<void> {
  const own = calls.filter((call) => call.script === script);
  if (own.length === 0) return;
  const replies = await runScript(connection, scripts[script], own, signal);
  for (const [i, call] of own.entries()) call.accept(replies[i]);
}

/** One chain's lookup: yields what to read next, goes on when it has been read, returns the matches. */
type ChainLookup = Generator<readonly ReadCall[], PrefixMatches, void>;

function* matchExactly(query: PrefixQuery, keys: RedisKeys, scope: ScopeLayout): ChainLookup {
  const blocks = query.keys.length;
  const layouts = layoutsOf(query.groups);
  const reader = new ChainReader(query, keys, scope);
  yield reader.calls(reader.unread(0, blocks), true);
  const matches = new Map<EndpointId, PrefixMatch>();
  for (const endpoint of reader.endpoints) {
    const match = exactMatch(blocks, endpoint, layouts.get(endpoint), reader.rankAt);
    if (match !== null) matches.set(endpoint, match);
  }
  return matches;
}

function* matchBySearch(query: PrefixQuery, keys: RedisKeys, scope: ScopeLayout): ChainLookup {
  const layouts = layoutsOf(query.groups);
  // Prefixes that are not defined block by block by full attention cannot be searched for.
  if ([...layouts.values()].some(({ uniform, full }) => !uniform || full.length === 0)) return yield* matchExactly(query, keys, scope);

  const search = new PrefixSearch(query, keys, scope, layouts);
  yield search.calls();
  const matches = new Map<EndpointId, PrefixMatch>();
  const windowed: Windowed[] = [];
  for (const [endpoint, { incarnation, lengths }] of search.found()) {
    const layout = layouts.get(endpoint);
    if (layout === undefined || layout.sliding.length === 0) setMatch(matches, endpoint, lengths, query.keys.length);
    else windowed.push({ endpoint, incarnation, layout, lengths });
  }
  if (windowed.length === 0) return matches;

  const reader = new ChainReader(query, keys, scope);
  for (const { endpoint, incarnation } of windowed) reader.know(endpoint, incarnation);
  yield* readUnread(
    reader,
    windowed.flatMap(({ layout, lengths }) => {
      const prefix = lengths.at(-1) ?? 0;
      return reader.unread(Math.max(0, prefix - longestWindow(layout)), prefix);
    }),
  );
  let hits = windowed.map((candidate) => windowedHit(reader, candidate));
  const unconfirmed = windowed.filter((_, i) => hits[i] === null);
  if (unconfirmed.length > 0) {
    yield* readUnread(reader, reader.unread(0, Math.max(...unconfirmed.map(({ lengths }) => lengths.at(-1) ?? 0))));
    hits = windowed.map((candidate) => windowedHit(reader, candidate));
  }
  for (const [i, { endpoint, lengths }] of windowed.entries()) setMatch(matches, endpoint, lengths, hits[i] ?? 0);
  return matches;
}

/** An endpoint whose prefix has to be confirmed by its sliding-window groups. */
interface Windowed {
  readonly endpoint: EndpointId;
  readonly incarnation: number;
  readonly layout: HybridLayout;
  readonly lengths: readonly number[];
}

function* readUnread(reader: ChainReader, positions: readonly number[]): Generator<readonly ReadCall[], void, void> {
  if (positions.length === 0) return;
  yield reader.calls(
    [...new Set(positions)].sort((a, b) => a - b),
    false,
  );
}

function longestWindow(layout: HybridLayout): number {
  return Math.max(...layout.sliding.map((group) => group.windowBlocks));
}

/** The hit that the sliding groups confirm within a full-attention prefix; null when it depends on a block that has not been read. */
function windowedHit(reader: ChainReader, { endpoint, layout, lengths }: Windowed): number | null {
  let isConfirmed = true;
  const hit = hybridHit({ ...layout, full: [] }, lengths.at(-1) ?? 0, (group, position) => {
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
