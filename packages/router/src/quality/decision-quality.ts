import type { Clock } from "@kvatlas/shared/clock";
import type { Component } from "@kvatlas/shared/lifecycle";
import type { Logger } from "@kvatlas/shared/logger";
import { noQuality, type QualityRecords, type RouterFinding, type RouterQuality } from "@kvatlas/shared/registry/quality-records";
import type { EndpointId } from "@kvatlas/shared/types";
import type { Decision } from "../routing/decision.ts";

/** How one answer compares with what was expected of it. */
export interface Prediction {
  readonly predictedTokens: number;
  /** By the engine. */
  readonly reportedTokens: number;
}

/** How one decision compares with what could have been had. */
export interface DecisionMeasure {
  /** Tokens that the endpoint with the longest prefix holds more than the picked one. */
  readonly regretTokens: number;
  /** Since the last sign of life from whoever reads the picked endpoint's events; null when there was none. */
  readonly ingesterSilenceMs: number | null;
}

export interface DecisionQualityDeps {
  readonly records: QualityRecords | null;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly onDecision: (measure: DecisionMeasure) => void;
  readonly onPrediction: (prediction: Prediction) => void;
}

const saveIntervalMs = 2_000;
/** A router that is gone is shown for this long. */
const ttlMs = 60_000;

/** Sums up how well decisions turn out, and tells it to whoever asks Redis, along with what is wrong. */
export class DecisionQuality implements Component {
  readonly name = "decision-quality";
  readonly #deps: DecisionQualityDeps;
  readonly #routerId: string;
  readonly #since: number;
  readonly #sums = { ...noQuality } as { -readonly [Name in keyof typeof noQuality]: number };
  readonly #findings = new Map<string, RouterFinding>();
  #isDirty = false;
  #savedAt = Number.NEGATIVE_INFINITY;
  #isSaving = false;
  #timer: NodeJS.Timeout | null = null;

  constructor(deps: DecisionQualityDeps, routerId: string) {
    this.#deps = deps;
    this.#routerId = routerId;
    this.#since = deps.clock.now();
  }

  async start(): Promise<void> {
    if (this.#deps.records === null) return;
    this.#timer = setInterval(() => void this.#save(), saveIntervalMs);
  }

  async close(): Promise<void> {
    if (this.#timer !== null) clearInterval(this.#timer);
    this.#timer = null;
  }

  decided(decision: Decision): void {
    const sums = this.#sums;
    sums[decision.mode] += 1;
    this.#isDirty = true;
    if (decision.mode !== "precise" && decision.mode !== "estimated") return;
    const longest = decision.ranking.reduce((most, { matchedTokens }) => Math.max(most, matchedTokens), 0);
    const regretTokens = longest - decision.matchedTokens;
    const { heartbeat } = decision.endpoint;
    sums.promptTokens += decision.promptTokens ?? 0;
    sums.matchedTokens += decision.matchedTokens;
    sums.regretTokens += regretTokens;
    this.#deps.onDecision({ regretTokens, ingesterSilenceMs: heartbeat === null ? null : Math.max(0, this.#deps.clock.now() - heartbeat) });
  }

  /** @param reportedTokens - null when the engine does not tell */
  answered(decision: Decision, endpoint: EndpointId, reportedTokens: number | null): void {
    if (reportedTokens === null || (decision.mode !== "precise" && decision.mode !== "estimated")) return;
    const predictedTokens = decision.ranking.find((ranked) => ranked.endpoint.id === endpoint)?.matchedTokens ?? 0;
    const sums = this.#sums;
    sums.compared += 1;
    sums.predictedTokens += predictedTokens;
    sums.reportedTokens += reportedTokens;
    sums[predictedTokens === reportedTokens ? "exact" : predictedTokens > reportedTokens ? "over" : "under"] += 1;
    this.#isDirty = true;
    this.#deps.onPrediction({ predictedTokens, reportedTokens });
  }

  /** Something is wrong with a pool, for as long as this router runs. */
  found(finding: RouterFinding): void {
    this.#findings.set(JSON.stringify([finding.pool, finding.name]), finding);
    this.#isDirty = true;
  }

  get summary(): RouterQuality {
    const findings = this.#findings.size === 0 ? {} : { findings: [...this.#findings.values()] };
    return { since: this.#since, at: this.#deps.clock.now(), ...this.#sums, ...findings };
  }

  async #save(): Promise<void> {
    const { records, logger } = this.#deps;
    const now = this.#deps.clock.monotonic();
    // Findings last without requests, too.
    const isFading = this.#findings.size > 0 && now - this.#savedAt > ttlMs / 2;
    if (records === null || this.#isSaving || !(this.#isDirty || isFading)) return;
    this.#isSaving = true;
    this.#isDirty = false;
    try {
      await records.save(this.#routerId, this.summary, ttlMs);
      this.#savedAt = now;
    } catch (error) {
      this.#isDirty = true;
      logger.debug({ err: error }, "how decisions turn out cannot be told");
    }
    this.#isSaving = false;
  }
}
