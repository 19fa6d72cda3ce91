import type { Clock } from "@kvatlas/shared/clock";
import { type FleetSnapshot, servedModels } from "../fleet/fleet.ts";
import { type ModelFacts, mergeModelFacts, readModelFacts } from "./model-facts.ts";
import type { ModelRoutes } from "./model-routes.ts";

/** A model of the OpenAI API, with the fields that vLLM adds. */
export interface ServedModel {
  readonly id: string;
  readonly object: "model";
  /** Seconds since the epoch. */
  readonly created: number;
  readonly owned_by: string;
  readonly root: string;
  readonly parent: string | null;
  /** Longest context that every replica takes; absent while none has said. */
  readonly max_model_len?: number;
}

export interface ModelCatalogueDeps {
  readonly fleet: { readonly snapshot: FleetSnapshot };
  /** What a replica says at `/v1/models`; null when it does not. */
  readonly ask: (address: string) => Promise<string | null>;
  readonly routes: ModelRoutes;
  readonly clock: Clock;
}

/** How long what replicas said is repeated. */
const keptMs = 5_000;
/** Replicas of a pool serve the same: a sample of them is enough to know its context length. */
const askedPerPool = 4;

/**
 * Every name that a request may have: models of the pools, adapters that any replica has loaded, and configured names. What only an engine knows of a
 * model (its context length, when it was loaded) is asked from some replicas of each pool, seldom, and left out when none answers.
 */
export class ModelCatalogue {
  readonly #deps: ModelCatalogueDeps;
  readonly #startedAt: number;
  #facts: ReadonlyMap<string, ModelFacts> = new Map();
  #askedAt = Number.NEGATIVE_INFINITY;
  #asking: Promise<void> | null = null;

  constructor(deps: ModelCatalogueDeps) {
    this.#deps = deps;
    this.#startedAt = Math.floor(deps.clock.now() / 1_000);
  }

  async list(): Promise<readonly ServedModel[]> {
    const { clock, fleet, routes } = this.#deps;
    if (clock.monotonic() - this.#askedAt > keptMs) {
      this.#asking ??= this.#ask().finally(() => {
        this.#asking = null;
      });
      await this.#asking;
    }
    const models = new Map<string, ServedModel>();
    for (const { id, root, parent } of servedModels(fleet.snapshot)) models.set(id, this.#describe(id, root, parent, parent ?? id));
    for (const { name, targets } of routes.values()) {
      const known = targets.map(({ model }) => models.get(model)).find((model) => model !== undefined);
      const target = known?.id ?? targets[0]?.model ?? name;
      models.set(name, this.#describe(name, known?.root ?? target, known?.parent ?? null, known?.parent ?? target));
    }
    return [...models.values()];
  }

  /** @param base - model whose context length counts */
  #describe(id: string, root: string, parent: string | null, base: string): ServedModel {
    const own = this.#facts.get(id);
    const maxModelLen = own?.maxModelLen ?? this.#facts.get(base)?.maxModelLen ?? null;
    return {
      id,
      object: "model",
      created: own?.created ?? this.#startedAt,
      owned_by: own?.ownedBy ?? "kvatlas",
      root: own?.root ?? root,
      parent,
      ...(maxModelLen === null ? {} : { max_model_len: maxModelLen }),
    };
  }

  async #ask(): Promise<void> {
    const { fleet, ask, clock } = this.#deps;
    const addresses = fleet.snapshot.pools.flatMap(({ endpoints }) =>
      [...new Set(endpoints.filter(({ ready }) => ready).map(({ address }) => address))].slice(0, askedPerPool),
    );
    const answers = await Promise.all(addresses.map((address) => ask(address)));
    this.#facts = mergeModelFacts(answers.map((text) => (text === null ? [] : readModelFacts(text))));
    this.#askedAt = clock.monotonic();
  }
}
