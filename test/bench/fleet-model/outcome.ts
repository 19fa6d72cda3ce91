import type { Decision } from "@kvatlas/router/routing/decision";
import type { EndpointId } from "@kvatlas/shared/types";
import { round } from "../statistics.ts";
import type { ModelRequest } from "./workload.ts";

/** Figures of one run or phase. */
export interface Figures {
  readonly requests: number;
  readonly ttftMeanS: number;
  readonly ttftP50S: number;
  readonly ttftP90S: number;
  readonly ttftP99S: number;
  /** Prompt tokens that the engines found in their caches, percent. */
  readonly hitPercent: number;
  readonly outputTokensPerS: number;
}

export interface FleetOutcome extends Figures {
  /** Prompt tokens computed by the busiest replica against the mean of all. */
  readonly imbalance: number;
  readonly queueMean: number;
  readonly queueMax: number;
  /** Mean distance between the match that was expected and the one the engine had, percent of the prompt. */
  readonly mispredictedPercent: number;
  /** Decisions that did not know what a replica held, of requests for which it held something: those of a router that came up anew. */
  readonly blindAfterRestart: number;
  /** Decisions by mode. */
  readonly modes: Readonly<Record<string, number>>;
  readonly phases: readonly (Figures & { readonly name: string })[];
}

interface Answer {
  readonly ttftMs: number;
  readonly promptTokens: number;
  readonly cachedTokens: number;
  readonly outputTokens: number;
}

/** Collects what became of the requests of a run. Warm-up phases leave no trace. */
export class FleetLog {
  #phase: Answer[] = [];
  readonly #all: Answer[] = [];
  readonly #phases: (Figures & { readonly name: string })[] = [];
  readonly #computed = new Map<EndpointId, number>();
  readonly #modes: Record<string, number> = {};
  #measuredMs = 0;
  #queues = 0;
  #queueSum = 0;
  #queueMax = 0;
  #mispredicted = 0;
  #routedTokens = 0;
  #blindAfterRestart = 0;

  answered(
    isWarmUp: boolean,
    target: { readonly endpoint: EndpointId; readonly decision: Decision | null; readonly isRestarted: boolean },
    request: ModelRequest,
    result: { readonly ttftMs: number; readonly cachedTokens: number },
  ): void {
    if (isWarmUp) return;
    const { promptTokens, outputTokens } = request;
    this.#phase.push({ ...result, promptTokens, outputTokens });
    this.#computed.set(target.endpoint, (this.#computed.get(target.endpoint) ?? 0) + promptTokens - result.cachedTokens);
    if (target.decision === null) return;
    const { mode, matchedTokens } = target.decision;
    if (target.isRestarted && matchedTokens === 0 && result.cachedTokens > 0) this.#blindAfterRestart += 1;
    this.#modes[mode] = (this.#modes[mode] ?? 0) + 1;
    this.#mispredicted += Math.abs(matchedTokens - result.cachedTokens);
    this.#routedTokens += promptTokens;
  }

  /** @param waiting - requests in the engines' queues, mean over the replicas */
  queued(waiting: number): void {
    this.#queues += 1;
    this.#queueSum += waiting;
    this.#queueMax = Math.max(this.#queueMax, waiting);
  }

  phaseEnded(name: string, isWarmUp: boolean, ms: number): void {
    if (isWarmUp) {
      this.#queues = 0;
      this.#queueSum = 0;
      this.#queueMax = 0;
      return;
    }
    this.#phases.push({ name, ...figuresOf(this.#phase, ms) });
    for (const answer of this.#phase) this.#all.push(answer);
    this.#phase = [];
    this.#measuredMs += ms;
  }

  outcome(endpoints: readonly EndpointId[]): FleetOutcome {
    const computed = endpoints.map((endpoint) => this.#computed.get(endpoint) ?? 0);
    const mean = computed.reduce((sum, tokens) => sum + tokens, 0) / Math.max(1, computed.length);
    return {
      ...figuresOf(this.#all, this.#measuredMs),
      imbalance: round(mean === 0 ? 1 : Math.max(...computed) / mean, 2),
      queueMean: round(this.#queueSum / Math.max(1, this.#queues), 2),
      queueMax: round(this.#queueMax, 1),
      mispredictedPercent: round((100 * this.#mispredicted) / Math.max(1, this.#routedTokens), 2),
      blindAfterRestart: this.#blindAfterRestart,
      modes: { ...this.#modes },
      phases: this.#phases,
    };
  }
}

function figuresOf(answers: readonly Answer[], ms: number): Figures {
  const ttfts = Float64Array.from(answers, (answer) => answer.ttftMs).sort();
  const at = (share: number): number => round((ttfts[Math.min(ttfts.length - 1, Math.floor(ttfts.length * share))] ?? 0) / 1000);
  const sum = (of: (answer: Answer) => number): number => answers.reduce((total, answer) => total + of(answer), 0);
  return {
    requests: answers.length,
    ttftMeanS: round(sum((answer) => answer.ttftMs) / Math.max(1, answers.length) / 1000),
    ttftP50S: at(0.5),
    ttftP90S: at(0.9),
    ttftP99S: at(0.99),
    hitPercent: round(
      (100 * sum((answer) => answer.cachedTokens)) /
        Math.max(
          1,
          sum((answer) => answer.promptTokens),
        ),
      2,
    ),
    outputTokensPerS: round((1000 * sum((answer) => answer.outputTokens)) / Math.max(1, ms), 0),
  };
}
