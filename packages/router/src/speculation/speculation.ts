import type { RoutedChain } from "@kvatlas/shared/routing-history/routing-history";
import type { BlockKey, EndpointId } from "@kvatlas/shared/types";
import type { Recalled, RoutingMemory } from "../estimation/routing-memory.ts";
import type { FleetEndpoint } from "../fleet/fleet.ts";
import type { KeyedQuery } from "../routing/prompt-keys.ts";
import { markPositions } from "./mark-positions.ts";

/** A lookup's chains, with the positions of the keys that are marked. */
export interface MarkedQuery {
  readonly keyed: KeyedQuery;
  readonly positions: readonly number[];
  readonly chain: RoutedChain;
}

/**
 * Counts an endpoint as holding the prompts that were just sent to it, until its events say so: a burst of requests with a common beginning follows the
 * first of them instead of computing it everywhere. Marks are shared by all routers and lie at some of a chain's blocks only.
 */
export class Speculation {
  readonly #memory: RoutingMemory;
  readonly #ttlMs: number;
  readonly #timeoutMs: number;

  constructor(memory: RoutingMemory, options: { readonly speculationMs: number; readonly lookupTimeoutMs: number }) {
    this.#memory = memory;
    this.#ttlMs = options.speculationMs;
    this.#timeoutMs = options.lookupTimeoutMs;
  }

  get isOn(): boolean {
    return this.#ttlMs > 0;
  }

  queriesOf(queries: readonly KeyedQuery[]): readonly MarkedQuery[] {
    return queries.map((keyed) => {
      const positions = markPositions(keyed.query.keys.length);
      const keys = positions.map((position) => keyed.query.keys[position]).filter((key): key is BlockKey => key !== undefined);
      return { keyed, positions, chain: { scope: keyed.query.scope, keys } };
    });
  }

  /** What all routers have marked; never rejects: without an answer in time nothing is. */
  async shared(marked: readonly MarkedQuery[]): Promise<Recalled> {
    const chains = marked.map(({ chain }) => chain);
    return this.#memory.shared(chains, this.#options).catch(() => []);
  }

  /**
   * Leading blocks of each query by endpoint, as marked; what this router has sent by now included.
   *
   * @param isShared - goes by what all routers know, without what this one alone does
   */
  blocksOf(marked: readonly MarkedQuery[], shared: Recalled, isShared: boolean): readonly ReadonlyMap<EndpointId, number>[] {
    const own = isShared
      ? []
      : this.#memory.own(
          marked.map(({ chain }) => chain),
          this.#options,
        );
    return marked.map(({ keyed, positions }, i) => {
      const blocks = new Map<EndpointId, number>();
      for (const recalled of [shared, own]) {
        for (const [endpoint, match] of recalled[i] ?? []) {
          const position = positions[match.position];
          if (position === undefined || !keyed.endpoints.has(endpoint)) continue;
          blocks.set(endpoint, Math.max(position + 1, blocks.get(endpoint) ?? 0));
        }
      }
      return blocks;
    });
  }

  /**
   * Marks what the endpoint was not known to hold, and returns the way to take it back.
   *
   * @param heldBlocks - leading blocks of a query that it is known to hold
   */
  mark(marked: readonly MarkedQuery[], endpoint: FleetEndpoint, heldBlocks: (query: number) => number): () => void {
    const chains = marked.flatMap(({ keyed, positions, chain }, i): RoutedChain[] => {
      if (!keyed.endpoints.has(endpoint.id)) return [];
      const held = heldBlocks(i);
      // The first key says where the chain is kept.
      const keys = chain.keys.filter((_, at) => at === 0 || (positions[at] ?? 0) >= held);
      return keys.length === 1 && held > 0 ? [] : [{ scope: chain.scope, keys }];
    });
    return chains.length === 0 ? () => {} : this.#memory.remember(chains, endpoint.id, { ttlMs: this.#ttlMs, isShared: true });
  }

  get #options() {
    return { maxAgeMs: this.#ttlMs, form: "sparse", timeoutMs: this.#timeoutMs } as const;
  }
}
