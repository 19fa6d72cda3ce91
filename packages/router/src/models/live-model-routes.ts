import type { ModelRouteConfig } from "@kvatlas/shared/config/schema";
import type { PoolRecord } from "@kvatlas/shared/registry/pool-record";
import { type ModelRoutes, modelRoutesByName } from "./model-routes.ts";

/** Names that stand for models: those of the configuration, and those that objects in the cluster give (InferenceModelRewrite, InferenceModel). A configured one wins. */
export class LiveModelRoutes {
  readonly #configured: ModelRoutes;
  readonly #routes: Map<string, ModelRouteConfig>;
  #seen: readonly PoolRecord[] = [];

  constructor(configured: readonly ModelRouteConfig[]) {
    this.#configured = modelRoutesByName(configured);
    this.#routes = new Map(this.#configured);
  }

  /** Always the same map, as it is now. */
  get routes(): ModelRoutes {
    return this.#routes;
  }

  /** What was discovered of the pools, in their order; of a name that two pools have the first one counts. */
  follow(discovered: readonly PoolRecord[]): void {
    if (discovered.length === this.#seen.length && discovered.every((record, i) => record === this.#seen[i])) return;
    this.#seen = discovered;
    const found = discovered.flatMap(({ models }) => models).reverse();
    const routes = new Map(
      found.map(({ name, targets, criticality }) => [name, { name, targets, criticality, answerAs: "client" as const }]),
    );
    this.#routes.clear();
    for (const [name, route] of [...routes, ...this.#configured]) this.#routes.set(name, route);
  }
}
