import { CacheFloors } from "@kvatlas/router/estimation/cache-floors";
import { type FleetSnapshot, routeOfModel } from "@kvatlas/router/fleet/fleet";
import { type InflightEntry, InflightTracker } from "@kvatlas/router/fleet/inflight-tracker";
import { LoadReader } from "@kvatlas/router/fleet/load-reader";
import { OutlierEjection } from "@kvatlas/router/fleet/outlier-ejection";
import { beginAt } from "@kvatlas/router/handling/sent-request";
import { Decider } from "@kvatlas/router/routing/decide";
import type { Decision } from "@kvatlas/router/routing/decision";
import { createPolicy } from "@kvatlas/router/routing/policies/create-policy";
import type { PromptKeys } from "@kvatlas/router/routing/prompt-keys";
import { VerifyLookup } from "@kvatlas/router/routing/verify-lookup";
import type { Timers } from "@kvatlas/shared/clock";
import type { KvatlasConfig } from "@kvatlas/shared/config/schema";
import type { BlockIndex } from "@kvatlas/shared/index/block-index";
import { silentLogger } from "@kvatlas/shared/logger";
import type { EndpointRegistry } from "@kvatlas/shared/registry/endpoint-registry";
import type { RoutingHistory } from "@kvatlas/shared/routing-history/routing-history";
import type { ModelTime } from "./model-time.ts";

export interface ModelRouterDeps {
  readonly time: ModelTime;
  readonly index: BlockIndex;
  readonly registry: EndpointRegistry;
  readonly keys: PromptKeys;
  /** What all routers sent where. */
  readonly history: RoutingHistory;
  /** 0 <= value < 1 */
  readonly random: () => number;
}

/** On the way to the store: what is published is seen by the others that much later. */
const storeDelayMs = 0.5;

/**
 * One router of the model: the production decider with its own load reader, ledger and memory of keys. Only what surrounds the decision is left
 * out: HTTP and tokenization (prompts come as token ids).
 */
export class ModelRouter {
  readonly id: string;
  readonly #deps: ModelRouterDeps;
  readonly #decider: Decider;
  readonly #inflight: InflightTracker;
  readonly #floors = new CacheFloors();
  #fleet: FleetSnapshot | null = null;
  #isAlive = true;

  constructor(deps: ModelRouterDeps, id: string, config: KvatlasConfig) {
    const { time, index, registry, keys, history, random } = deps;
    this.id = id;
    this.#deps = deps;
    const timers: Timers = {
      after: (delayMs, run) =>
        time.after(delayMs + storeDelayMs, () => {
          if (this.#isAlive) run();
        }),
    };
    const atTurnEnd = (run: () => void) => void timers.after(0, run);
    const hasReaders = () => (this.#fleet?.routers.length ?? 0) > 1;
    this.#inflight = new InflightTracker({ registry, clock: time, timers, atTurnEnd, hasReaders, logger: silentLogger }, { routerId: id });
    let turn = 0;
    this.#decider = new Decider(
      {
        index,
        loads: new LoadReader(registry, time),
        inflight: this.#inflight,
        ejection: new OutlierEjection(time),
        keys,
        history,
        floors: this.#floors,
        policy: createPolicy(config.router),
        verify: new VerifyLookup({ index, logger: silentLogger, random, onCompared: () => {} }, 0),
        sources: { next: () => turn++, random },
        clock: time,
        timers,
        logger: silentLogger,
        onDecided: () => {},
      },
      { routerId: id, config: config.router },
    );
  }

  start(): Promise<void> {
    return this.#inflight.start();
  }

  /** As a process that ends without a word: what it has published stays until it expires. */
  kill(): void {
    this.#isAlive = false;
  }

  async decide(fleet: FleetSnapshot, prompt: Uint32Array, model: string): Promise<Decision> {
    const route = routeOfModel(fleet, model);
    if (route === null) throw new Error(`the model's fleet does not serve ${model}`);
    const request = {
      model,
      stream: true,
      prompt: { form: "ids", prompts: [{ tokenIds: prompt }] },
      cacheSalt: null,
      // Without text, what tells requests apart where no keys are known are their last tokens.
      bodyText: prompt.subarray(-16).join(" "),
    } as const;
    const decision = await this.#decider.decide({ request, route, fleet, encoder: null });
    // What was sent where goes out at the end of the turn: there is none in a model that never waits.
    await new Promise((resolve) => setImmediate(resolve));
    return decision;
  }

  /** The fleet has changed. */
  see(fleet: FleetSnapshot): void {
    this.#fleet = fleet;
    this.#floors.observe(fleet, this.#deps.time.now());
  }

  begin(decision: Decision): InflightEntry {
    return beginAt(this.#inflight, decision, decision.endpoint, 0);
  }
}
