import { type Clock, systemTimers, type Timers } from "@kvatlas/shared/clock";
import type { RouterConfig } from "@kvatlas/shared/config/schema";
import type { BlockIndex } from "@kvatlas/shared/index/block-index";
import type { Logger } from "@kvatlas/shared/logger";
import { MemoryRoutingHistory } from "@kvatlas/shared/routing-history/memory-routing-history";
import type { RoutingHistory } from "@kvatlas/shared/routing-history/routing-history";
import { Divider } from "../disaggregation/divider.ts";
import type { Division } from "../disaggregation/division.ts";
import { CacheFloors } from "../estimation/cache-floors.ts";
import { PrefixEstimator } from "../estimation/prefix-estimator.ts";
import { RoutingMemory, type RoutingMemoryDeps } from "../estimation/routing-memory.ts";
import { HttpError } from "../request/openai-error.ts";
import { Speculation } from "../speculation/speculation.ts";
import { Contest, type ContestDeps } from "./contest.ts";
import type { Decision } from "./decision.ts";
import { whyNone } from "./eligible.ts";
import { LookupGate } from "./lookup-gate.ts";
import { modeOfPool } from "./mode-of-pool.ts";
import { EstimatedMode } from "./modes/estimated-mode.ts";
import { createLoadMode } from "./modes/load-mode.ts";
import { hasGivenUp, type Mode, type Ruling } from "./modes/mode.ts";
import { createOffMode } from "./modes/off-mode.ts";
import { PreciseMode } from "./modes/precise-mode.ts";
import type { OffPolicySources } from "./off-policy.ts";
import { Placement, type Renewal } from "./placement.ts";
import { createPolicy } from "./policies/create-policy.ts";
import type { PromptKeys } from "./prompt-keys.ts";
import { type DecideInput, RequestWork } from "./request-work.ts";
import type { VerifyLookup } from "./verify-lookup.ts";

export interface DeciderDeps extends ContestDeps {
  readonly index: Pick<BlockIndex, "lookup">;
  readonly keys: PromptKeys;
  readonly verify: VerifyLookup;
  readonly sources: OffPolicySources;
  readonly clock: Clock;
  /** @defaultValue those of the process */
  readonly timers?: Timers;
  readonly logger: Logger;
  /** What routers sent where. @defaultValue in the memory of this one */
  readonly history?: RoutingHistory;
  /** Told of the fleet where endpoints come and go. @defaultValue nothing is known of their starts but what the fleet says */
  readonly floors?: CacheFloors;
  /** Runs what a decision leaves to be written, along with what else is. @defaultValue at the end of the event loop's turn, alone */
  readonly atTurnEnd?: RoutingMemoryDeps["atTurnEnd"];
  /** Called once per decision. */
  readonly onDecided: (decision: Decision) => void;
  /** Called for each batch of what was sent where, on its way to the other routers. @defaultValue nobody hears of it */
  readonly onShared?: RoutingMemoryDeps["onWritten"];
}

export interface DeciderOptions {
  readonly routerId: string;
  readonly config: RouterConfig;
}

/** Parts of the time that speculation lasts. */
const firstRenewedAfter = 0.1;
const renewedAfter = 0.5;

/**
 * Picks the endpoint for a request: asks the modes of its pool, one after the other, until one can rule. Rejects only with HttpError: 503 when no
 * endpoint can take requests.
 */
export class Decider {
  readonly #deps: DeciderDeps;
  readonly #options: DeciderOptions;
  readonly #divider: Divider;
  /** Of speculation. */
  readonly #renewal: Renewal | null;
  readonly #modes: Readonly<Record<"precise" | "estimated" | "off" | "load", readonly Mode[]>>;

  constructor(deps: DeciderDeps, options: DeciderOptions) {
    const { config, routerId } = options;
    const { clock, logger } = deps;
    this.#deps = deps;
    this.#options = options;
    const history = deps.history ?? new MemoryRoutingHistory({ clock });
    const memory = new RoutingMemory({
      history,
      clock,
      logger,
      ...(deps.atTurnEnd === undefined ? {} : { atTurnEnd: deps.atTurnEnd }),
      onWritten: deps.onShared ?? (() => {}),
    });
    const { speculationMs } = config;
    this.#renewal =
      speculationMs > 0
        ? { timers: deps.timers ?? systemTimers, firstMs: speculationMs * firstRenewedAfter, intervalMs: speculationMs * renewedAfter }
        : null;
    const contest = new Contest(deps, { routerId, lookupTimeoutMs: config.lookupTimeoutMs });
    const transferPolicy = createPolicy({ ...config, missFactor: config.disaggregation.transferFactor });
    this.#divider = new Divider({ contest, transferPolicy }, config.disaggregation);
    const estimator = new PrefixEstimator({ memory, floors: deps.floors ?? new CacheFloors() }, config);
    const speculation = new Speculation(memory, config);
    const precise = new PreciseMode({ ...deps, contest, estimator, speculation, gate: new LookupGate(clock) }, config);
    const estimated = new EstimatedMode({ contest, estimator, logger });
    const load = createLoadMode(contest);
    this.#modes = {
      precise: [precise, estimated, load],
      estimated: [estimated, load],
      load: [load],
      off: [createOffMode(contest, config.offPolicy, deps.sources)],
    };
  }

  async decide(input: DecideInput): Promise<Decision> {
    const { clock, logger, onDecided } = this.#deps;
    const work = new RequestWork(input, clock, logger, this.#options.config);
    if (input.byLoad !== undefined) work.giveUp({ reason: input.byLoad });
    const ruling = await this.#rule(work, this.#modes[input.byLoad === undefined ? modeOfPool(input.route.pool.config) : "load"]);
    const divided = input.mayDivide === true ? this.#divider.divide(work, ruling) : null;
    const decision = decisionOf(work, divided?.ruling ?? ruling, divided?.division ?? null, this.#renewal);
    if (!work.isDryRun) onDecided(decision);
    return decision;
  }

  async #rule(work: RequestWork, modes: readonly Mode[]): Promise<Ruling> {
    for (const mode of modes) {
      const outcome = await mode.rule(work);
      if (!hasGivenUp(outcome)) return outcome;
      work.giveUp(outcome);
    }
    throw new HttpError(503, whyNone(work.input.route.endpoints), { retryAfterSeconds: 1 });
  }
}

function decisionOf(
  work: RequestWork,
  { mode, reason, ranking, residency }: Ruling,
  division: Division | null,
  renewal: Renewal | null,
): Decision {
  const [picked] = ranking;
  if (picked === undefined) throw new HttpError(503, whyNone(work.input.route.endpoints), { retryAfterSeconds: 1 });
  // At once, in the same turn as the ranking: the next request of a burst is to know of this one.
  const placement = work.isDryRun || work.remember === null ? null : new Placement(work.remember, mode === "precise" ? renewal : null);
  placement?.sentTo(picked.endpoint);
  return {
    endpoint: picked.endpoint,
    mode,
    reason,
    promptTokens: work.promptTokens,
    matchedTokens: picked.matchedTokens,
    blocks: residency.blocks,
    matchedBlocks: residency.matches.get(picked.endpoint.id)?.blocks ?? 0,
    ranking,
    timings: work.timings,
    ...(division === null ? {} : { division }),
    ...(placement === null ? {} : { placement }),
  };
}
