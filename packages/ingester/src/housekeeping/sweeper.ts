import type { BlockIndex } from "@kvatlas/shared/index/block-index";
import type { Logger } from "@kvatlas/shared/logger";
import type { EndpointRecord, EndpointRegistry } from "@kvatlas/shared/registry/endpoint-registry";
import type { ScopeId } from "@kvatlas/shared/types";
import type { IngesterMetrics } from "../metrics.ts";

export interface SweeperDeps {
  readonly registry: Pick<EndpointRegistry, "endpoints" | "scopes">;
  readonly index: Pick<BlockIndex, "sweep">;
  readonly logger: Logger;
  readonly metrics: IngesterMetrics;
  /** Whether this instance is the one that sweeps the scope. */
  readonly isMine: (scope: ScopeId) => boolean;
}

export interface SweeperOptions {
  /** Blocks examined per step: with one step a second about a hundredth of a Redis core. */
  readonly blocksPerStep: number;
}

/** What a scope's dead entries come from: another set of these since the last whole pass means that there may be some. */
function incarnationsIn(scope: ScopeId, records: readonly EndpointRecord[]): string {
  return records
    .filter((record) => record.meta.scope === scope)
    .map((record) => `${record.id}=${record.state.incarnation}`)
    .join(" ");
}

/**
 * Reclaims what dead incarnations have left in the index, one bounded slice per step. Readers ignore those entries anyway, so it may
 * stop and begin anew at any time. A scope is walked once after its endpoints or their incarnations have changed.
 */
export class Sweeper {
  readonly #deps: SweeperDeps;
  readonly #options: SweeperOptions;
  readonly #swept = new Map<ScopeId, string>();
  #current: { readonly scope: ScopeId; readonly incarnations: string; cursor: string } | null = null;

  constructor(deps: SweeperDeps, options: SweeperOptions) {
    this.#deps = deps;
    this.#options = options;
  }

  /** Examines one slice, or looks for a scope to walk. */
  async step(): Promise<void> {
    this.#current ??= await this.#next();
    const current = this.#current;
    if (current === null) return;
    const { next, dropped } = await this.#deps.index.sweep(current.scope, current.cursor, this.#options.blocksPerStep);
    if (dropped > 0) this.#deps.metrics.swept.inc(dropped);
    if (next !== null) {
      current.cursor = next;
      return;
    }
    this.#swept.set(current.scope, current.incarnations);
    this.#current = null;
  }

  async #next(): Promise<{ readonly scope: ScopeId; readonly incarnations: string; cursor: string } | null> {
    const [scopes, records] = await Promise.all([this.#deps.registry.scopes(), this.#deps.registry.endpoints()]);
    for (const scope of this.#swept.keys()) if (!scopes.has(scope)) this.#swept.delete(scope);
    for (const scope of scopes.keys()) {
      const incarnations = incarnationsIn(scope, records);
      if (this.#swept.get(scope) !== incarnations && this.#deps.isMine(scope)) return { scope, incarnations, cursor: "0" };
    }
    return null;
  }
}
