import type { Clock } from "@kvatlas/shared/clock";
import type { PoolConfig, RouterConfig } from "@kvatlas/shared/config/schema";
import type { BlockIndex } from "@kvatlas/shared/index/block-index";
import type { Logger } from "@kvatlas/shared/logger";
import { HttpError } from "../request/openai-error.ts";
import { Contest, type ContestDeps } from "./contest.ts";
import type { Decision } from "./decision.ts";
import { whyNone } from "./eligible.ts";
import { createLoadMode } from "./modes/load-mode.ts";
import { hasGivenUp, type Mode, type Ruling } from "./modes/mode.ts";
import { createOffMode } from "./modes/off-mode.ts";
import { PreciseMode } from "./modes/precise-mode.ts";
import type { OffPolicySources } from "./off-policy.ts";
import type { PromptKeys } from "./prompt-keys.ts";
import { type DecideInput, RequestWork } from "./request-work.ts";
import type { VerifyLookup } from "./verify-lookup.ts";

export interface DeciderDeps extends ContestDeps {
  readonly index: Pick<BlockIndex, "lookup">;
  readonly keys: PromptKeys;
  readonly verify: VerifyLookup;
  readonly sources: OffPolicySources;
  readonly clock: Clock;
  readonly logger: Logger;
  /** Called once per decision. */
  readonly onDecided: (decision: Decision) => void;
}

export interface DeciderOptions {
  readonly routerId: string;
  readonly config: RouterConfig;
}

/**
 * Picks the endpoint for a request: asks the modes of its pool, one after the other, until one can rule. Rejects only with HttpError: 503 when no
 * endpoint can take requests.
 */
export class Decider {
  readonly #deps: DeciderDeps;
  readonly #options: DeciderOptions;
  readonly #off: Mode;
  readonly #precise: Mode;
  readonly #load: Mode;

  constructor(deps: DeciderDeps, options: DeciderOptions) {
    const { config, routerId } = options;
    this.#deps = deps;
    this.#options = options;
    const contest = new Contest(deps, { routerId, lookupTimeoutMs: config.lookupTimeoutMs });
    this.#off = createOffMode(contest, config.offPolicy, deps.sources);
    this.#precise = new PreciseMode({ ...deps, contest }, config);
    this.#load = createLoadMode(contest);
  }

  async decide(input: DecideInput): Promise<Decision> {
    const { clock, logger, onDecided } = this.#deps;
    const work = new RequestWork(input, clock, logger, this.#options.config);
    const ruling = await this.#rule(work, this.#modesOf(input.route.pool.config));
    const decision = decisionOf(work, ruling);
    if (!work.isDryRun) onDecided(decision);
    return decision;
  }

  #modesOf(pool: PoolConfig): readonly Mode[] {
    return pool.prefixCache.mode === "off" ? [this.#off] : [this.#precise, this.#load];
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

function decisionOf(work: RequestWork, { mode, reason, ranking, residency }: Ruling): Decision {
  const [picked] = ranking;
  if (picked === undefined) throw new HttpError(503, whyNone(work.input.route.endpoints), { retryAfterSeconds: 1 });
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
  };
}
