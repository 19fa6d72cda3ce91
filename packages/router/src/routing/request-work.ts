import type { Clock } from "@kvatlas/shared/clock";
import type { Logger } from "@kvatlas/shared/logger";
import type { PromptEncoder } from "@kvatlas/shared/tokenization/prompt-encoder";
import type { EstimateChains } from "../estimation/prefix-estimator.ts";
import type { FleetSnapshot, ModelRoute } from "../fleet/fleet.ts";
import type { FleetLoad } from "../fleet/load-reader.ts";
import type { ParsedRequest } from "../request/parse-request.ts";
import type { DecisionReason, DecisionTimings } from "./decision.ts";
import { modeOfPool } from "./mode-of-pool.ts";
import type { Remember } from "./placement.ts";
import { tieKeyOfText } from "./tie-key.ts";
import { type TokenizedPrompt, type TokenizeTimes, tokenizePrompt } from "./tokenize-prompt.ts";

export interface DecideInput {
  readonly request: ParsedRequest;
  readonly route: ModelRoute;
  readonly fleet: FleetSnapshot;
  /** Of the route's pool. */
  readonly encoder: PromptEncoder | null;
  /**
   * Answers as every other router would at this moment: by shared state alone, without this router's own ledger and experiences, and leaves no trace.
   *
   * @defaultValue false
   */
  readonly dryRun?: boolean;
  /** Load is to decide, whatever the pool's mode, and this is why. */
  readonly byLoad?: DecisionReason;
  /** Whoever asks can let one endpoint compute the prompt and another one the answer. @defaultValue false */
  readonly mayDivide?: boolean;
  readonly requestId?: string;
  /** What the client names its session. */
  readonly session?: string | null;
}

/** Why a mode could not decide. */
export interface GivenUp {
  readonly reason: DecisionReason;
  readonly error?: unknown;
}

/** What is known so far of one request on its way through the modes: done once, whichever of them ask. */
export class RequestWork {
  readonly input: DecideInput;
  readonly #clock: Clock;
  readonly #logger: Logger;
  readonly #times: TokenizeTimes;
  readonly #startedAt: number;
  readonly #timings: { tokenizeMs: number | null; keysMs: number | null; lookupMs: number | null } = {
    tokenizeMs: null,
    keysMs: null,
    lookupMs: null,
  };
  #tokenized: Promise<TokenizedPrompt> | null = null;
  #givenUp: GivenUp | null = null;
  /** Null until the prompt has been tokenized. */
  promptTokens: number | null = null;
  /** What estimates know the request by, where a mode has found that out already. */
  chains: EstimateChains | null = null;
  /** Remembers where the request goes, as the modes that could would have it. */
  remember: Remember | null = null;
  /** A reading of the load that a mode has left behind. */
  load: FleetLoad | null = null;

  constructor(input: DecideInput, clock: Clock, logger: Logger, times: TokenizeTimes) {
    this.input = input;
    this.#clock = clock;
    this.#logger = logger;
    this.#times = times;
    this.#startedAt = clock.monotonic();
  }

  get isDryRun(): boolean {
    return this.input.dryRun === true;
  }

  /** What the first mode that gave up could not do; null while none has. */
  get givenUp(): GivenUp | null {
    return this.#givenUp;
  }

  giveUp(givenUp: GivenUp): void {
    this.#givenUp ??= givenUp;
    if (givenUp.error === undefined) return;
    this.#logger.debug({ "x-request-id": this.input.requestId, reason: givenUp.reason, err: givenUp.error }, "prefix not known");
  }

  /** Never rejects. */
  tokenized(): Promise<TokenizedPrompt> {
    this.#tokenized ??= this.#tokenize();
    return this.#tokenized;
  }

  /** Measures a step. */
  timed(step: "keysMs" | "lookupMs", ms: number): void {
    this.#timings[step] = (this.#timings[step] ?? 0) + ms;
  }

  now(): number {
    return this.#clock.monotonic();
  }

  get timings(): DecisionTimings {
    const { tokenizeMs, keysMs, lookupMs } = this.#timings;
    return { tokenizeMs, keysMs, lookupMs, totalMs: this.#clock.monotonic() - this.#startedAt };
  }

  /** Breaks ties where there is no key. */
  get tieKey(): string {
    return tieKeyOfText(this.input.request.bodyText);
  }

  /** Replicas are not made to render a prompt for an estimate: text does for that. */
  get #timesOfPool(): TokenizeTimes {
    return modeOfPool(this.input.route.pool.config) === "precise" ? this.#times : { ...this.#times, renderTimeoutMs: 0 };
  }

  async #tokenize(): Promise<TokenizedPrompt> {
    const { request, encoder } = this.input;
    const began = this.#clock.monotonic();
    const tokenized = await tokenizePrompt(request, encoder, this.#timesOfPool);
    if (!("prompts" in tokenized)) {
      this.#timings.tokenizeMs = this.#clock.monotonic() - began;
      return tokenized;
    }
    if (tokenized.tokenized) this.#timings.tokenizeMs = this.#clock.monotonic() - began;
    this.promptTokens = tokenized.prompts.reduce((sum, { tokenIds }) => sum + tokenIds.length, 0);
    return tokenized;
  }
}
