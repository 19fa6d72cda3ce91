import type { RedisConnection } from "../redis.ts";
import { type RedisScript, runScript } from "../redis-scripts.ts";
import type { EndpointId } from "../types.ts";
import type { LookupOptions, PrefixMatch, PrefixMatches, PrefixQuery } from "./block-index.ts";
import { type HybridLayout, hybridHit } from "./hybrid-hit.ts";
import { ABSENT, exactMatch, layoutsOf, matchOf, prefixRank } from "./prefix-match.ts";
import { firstPositions, PrefixProbe } from "./prefix-probe.ts";
import { type Asked, ChainReader, type ReadCall } from "./redis-chain-reader.ts";
import type { RedisKeys } from "./redis-keys.ts";
import type { ScopeLayout } from "./scope-layout.ts";

export interface PrefixLookupDeps {
  readonly connection: RedisConnection;
  readonly keys: RedisKeys;
  readonly scripts: { readonly read: RedisScript; readonly peek: RedisScript };
}

/** Script calls sent in one go; longer exact lookups take several round trips. */
const MAX_CALLS_PER_SEND = 16;

/** What one chain reads next. */
interface Step {
  readonly reader: ChainReader;
  readonly asked: readonly Asked[];
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
    const round: Step[] = [];
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

async function readRound(deps: PrefixLookupDeps, round: readonly Step[], isFirst: boolean, signal: AbortSignal | undefined): Promise<void> {
  const calls = round.flatMap(({ reader, asked }) => reader.calls(asked, isFirst));
  for (let from = 0; from < calls.length; from += MAX_CALLS_PER_SEND) {
    const part = calls.slice(from, from + MAX_CALLS_PER_SEND);
    await Promise.all((["read", "peek"] as const).map((script) => runCalls(deps, script, part, signal)));
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
function* matchChain(reader: ChainReader, method: "probe" | "exact"): Generator<Step, PrefixMatches> {
  const matches = new Map<EndpointId, PrefixMatch>();
  const blocks = reader.query.keys.length;
  if (blocks === 0) return matches;
  const layouts = layoutsOf(reader.query.groups);
  // Prefixes that are not defined block by block by full attention cannot be probed.
  const isProbed = method === "probe" && [...layouts.values()].every((layout) => layout.uniform && layout.full.length > 0);
  if (!isProbed) {
    yield { reader, asked: [{ positions: reader.unread(0, blocks), of: null }] };
    for (const endpoint of reader.endpoints) {
      const match = exactMatch(blocks, endpoint, layouts.get(endpoint), reader.rankAt);
      if (match !== null) matches.set(endpoint, match);
    }
    return matches;
  }

  yield { reader, asked: [{ positions: firstPositions(blocks), of: null }] };
  const rankAt = (position: number, endpoint: EndpointId) => prefixRank(layouts.get(endpoint), position, endpoint, reader.rankAt);
  const endpoints = [...reader.endpoints].filter((endpoint) => rankAt(0, endpoint) < ABSENT);
  const probe = new PrefixProbe(blocks, endpoints, rankAt);
  for (let positions = probe.next(); positions.length > 0; positions = probe.next()) {
    // Cache groups are looked at together, at positions of which everything is known.
    yield { reader, asked: layouts.size === 0 ? probe.askedOf(positions) : [{ positions, of: null }] };
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

function* readUnread(reader: ChainReader, positions: readonly number[]): Generator<Step, void> {
  if (positions.length > 0) yield { reader, asked: [{ positions: [...new Set(positions)].sort((a, b) => a - b), of: null }] };
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
