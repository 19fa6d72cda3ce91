import { type Clock, systemClock } from "../clock.ts";
import type { BlockKey, EndpointId, ScopeId } from "../types.ts";
import type { RoutedMatch, Routing, RoutingHistory } from "./routing-history.ts";

export interface MemoryRoutingHistoryOptions {
  /** Keys remembered: at least half as many; those that were routed longest ago go first. @defaultValue 200_000 */
  readonly maxKeys?: number;
  readonly clock?: Clock;
}

/** A key's last sending to an endpoint; all keys of a routing share one, so that remembering a chain allocates nothing for each of its keys. */
interface Sent {
  readonly endpoint: EndpointId;
  readonly at: number;
  /** Monotonic ms. */
  readonly expires: number;
}

/** Most keys were sent to one endpoint. */
type Marks = Sent | Sent[];

type Generation = Map<ScopeId, Map<BlockKey, Marks>>;

/** As many as the history in Redis keeps of a key. */
const MOST_ENDPOINTS = 1_024;

/** The history of one process: two generations of keys, of which the older one is let go of when the younger one has grown to half of what is kept. */
export class MemoryRoutingHistory implements RoutingHistory {
  readonly #clock: Clock;
  readonly #maxKeysOfGeneration: number;
  #young: Generation = new Map();
  #old: Generation = new Map();
  #youngKeys = 0;

  constructor(options: MemoryRoutingHistoryOptions = {}) {
    this.#clock = options.clock ?? systemClock;
    this.#maxKeysOfGeneration = Math.max(1, Math.floor((options.maxKeys ?? 200_000) / 2));
  }

  async lookup(...args: Parameters<RoutingHistory["lookup"]>): ReturnType<RoutingHistory["lookup"]> {
    return this.lookupNow(...args);
  }

  /** The same without waiting. */
  lookupNow(...[chains, { sinceMs, form }]: Parameters<RoutingHistory["lookup"]>): Awaited<ReturnType<RoutingHistory["lookup"]>> {
    const now = this.#clock.monotonic();
    return chains.map(({ scope, keys }) => {
      const young = this.#young.get(scope);
      const old = this.#old.get(scope);
      const read: (Marks | undefined)[] = [];
      for (const key of keys) {
        const marks = young?.get(key) ?? old?.get(key);
        const isMarked = marks !== undefined && isAlive(marks, now);
        // Whatever is beyond an unmarked key of a whole chain is unmarked as well.
        if (!isMarked && form === "whole") break;
        read.push(isMarked ? marks : undefined);
      }
      return lastMatches(read, sinceMs);
    });
  }

  async record(routings: readonly Routing[], ttlMs: number): Promise<void> {
    this.recordNow(routings, ttlMs);
  }

  /** The same without waiting. */
  recordNow(routings: readonly Routing[], ttlMs: number): void {
    const now = this.#clock.monotonic();
    for (const { chain, endpoint, at } of routings) {
      const sent: Sent = { endpoint, at, expires: now + ttlMs };
      for (const key of chain.keys) this.#add(chain.scope, key, sent, now);
    }
  }

  async withdraw(routings: readonly Routing[]): Promise<void> {
    this.withdrawNow(routings);
  }

  /** The same without waiting. */
  withdrawNow(routings: readonly Routing[]): void {
    for (const { chain, endpoint, at } of routings) {
      for (const generation of [this.#young, this.#old]) {
        const marksByKey = generation.get(chain.scope);
        if (marksByKey === undefined) continue;
        for (const key of chain.keys) {
          const marks = marksByKey.get(key);
          if (marks === undefined) continue;
          // What is empty counts as not there; it goes with its generation.
          marksByKey.set(
            key,
            listOf(marks).filter((sent) => sent.endpoint !== endpoint || sent.at !== at),
          );
        }
      }
    }
  }

  #add(scope: ScopeId, key: BlockKey, sent: Sent, now: number): void {
    let young = this.#young.get(scope);
    const known = young?.get(key);
    if (known === undefined && this.#youngKeys >= this.#maxKeysOfGeneration) {
      this.#old = this.#young;
      this.#young = new Map();
      this.#youngKeys = 0;
      young = undefined;
    }
    if (young === undefined) {
      young = new Map();
      this.#young.set(scope, young);
    }
    if (known === undefined) this.#youngKeys += 1;
    young.set(key, withSent(known ?? this.#old.get(scope)?.get(key), sent, now));
  }
}

function withSent(marks: Marks | undefined, sent: Sent, now: number): Marks {
  if (marks === undefined || marks === sent || !isAlive(marks, now)) return sent;
  if (!Array.isArray(marks)) return marks.endpoint === sent.endpoint ? later(marks, sent) : [marks, sent];
  const place = marks.findIndex(({ endpoint }) => endpoint === sent.endpoint);
  const before = marks[place];
  if (before !== undefined) marks[place] = later(before, sent);
  else if (marks.push(sent) > MOST_ENDPOINTS) marks.shift();
  return marks;
}

function later(before: Sent, sent: Sent): Sent {
  return before.at > sent.at ? { ...sent, at: before.at } : sent;
}

function isAlive(marks: Marks, now: number): boolean {
  return Array.isArray(marks) ? marks.some(({ expires }) => expires > now) : marks.expires > now;
}

function listOf(marks: Marks): readonly Sent[] {
  return Array.isArray(marks) ? marks : [marks];
}

/** The last position of each endpoint. */
function lastMatches(read: readonly (Marks | undefined)[], sinceMs: number): ReadonlyMap<EndpointId, RoutedMatch> {
  const found = new Map<EndpointId, RoutedMatch>();
  for (let position = read.length - 1; position >= 0; position -= 1) {
    const marks = read[position];
    if (marks === undefined) continue;
    if (!Array.isArray(marks)) take(found, marks, position, sinceMs);
    else for (const sent of marks) take(found, sent, position, sinceMs);
  }
  return found;
}

function take(found: Map<EndpointId, RoutedMatch>, { endpoint, at }: Sent, position: number, sinceMs: number): void {
  if (at >= sinceMs && !found.has(endpoint)) found.set(endpoint, { position, at });
}
