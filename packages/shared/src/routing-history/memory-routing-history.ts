import { LRUCache } from "lru-cache";
import { type Clock, systemClock } from "../clock.ts";
import type { BlockKey, EndpointId, ScopeId } from "../types.ts";
import type { RoutedMatch, Routing, RoutingHistory } from "./routing-history.ts";

export interface MemoryRoutingHistoryOptions {
  /** Keys remembered; those that were routed longest ago go first. @defaultValue 200_000 */
  readonly maxKeys?: number;
  readonly clock?: Clock;
}

interface Marks {
  readonly at: Map<EndpointId, number>;
  /** Monotonic ms. */
  expires: number;
}

/** The history of one process. */
export class MemoryRoutingHistory implements RoutingHistory {
  readonly #keys: LRUCache<string, Marks>;
  readonly #clock: Clock;

  constructor(options: MemoryRoutingHistoryOptions = {}) {
    this.#keys = new LRUCache({ max: options.maxKeys ?? 200_000 });
    this.#clock = options.clock ?? systemClock;
  }

  async lookup(...args: Parameters<RoutingHistory["lookup"]>): ReturnType<RoutingHistory["lookup"]> {
    return this.lookupNow(...args);
  }

  /** The same without waiting. */
  lookupNow(...[chains, { sinceMs, form }]: Parameters<RoutingHistory["lookup"]>): Awaited<ReturnType<RoutingHistory["lookup"]>> {
    return chains.map(({ scope, keys }) => {
      const found = new Map<EndpointId, RoutedMatch>();
      for (const [position, key] of keys.entries()) {
        const marks = this.#marks(scope, key);
        // Whatever is beyond an unmarked key of a whole chain is unmarked as well.
        if (marks === undefined && form === "whole") break;
        for (const [endpoint, at] of marks?.at ?? []) if (at >= sinceMs) found.set(endpoint, { position, at });
      }
      return found;
    });
  }

  async record(routings: readonly Routing[], ttlMs: number): Promise<void> {
    this.recordNow(routings, ttlMs);
  }

  /** The same without waiting. */
  recordNow(routings: readonly Routing[], ttlMs: number): void {
    const expires = this.#clock.monotonic() + ttlMs;
    for (const { chain, endpoint, at } of routings) {
      for (const key of chain.keys) {
        const name = nameOf(chain.scope, key);
        let marks = this.#keys.get(name);
        if (marks === undefined || marks.expires <= this.#clock.monotonic()) {
          marks = { at: new Map(), expires };
          this.#keys.set(name, marks);
        }
        marks.expires = expires;
        marks.at.set(endpoint, Math.max(at, marks.at.get(endpoint) ?? at));
      }
    }
  }

  async withdraw(routings: readonly Routing[]): Promise<void> {
    this.withdrawNow(routings);
  }

  /** The same without waiting. */
  withdrawNow(routings: readonly Routing[]): void {
    for (const { chain, endpoint, at } of routings) {
      for (const key of chain.keys) {
        const name = nameOf(chain.scope, key);
        const marks = this.#keys.get(name);
        if (marks?.at.get(endpoint) !== at) continue;
        marks.at.delete(endpoint);
        if (marks.at.size === 0) this.#keys.delete(name);
      }
    }
  }

  #marks(scope: ScopeId, key: BlockKey): Marks | undefined {
    const marks = this.#keys.get(nameOf(scope, key));
    return marks !== undefined && marks.expires > this.#clock.monotonic() ? marks : undefined;
  }
}

function nameOf(scope: ScopeId, key: BlockKey): string {
  return `${scope} ${key}`;
}
