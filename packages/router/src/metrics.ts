import { buckets } from "@kvatlas/shared/metrics";
import { Counter, Gauge, Histogram, type Registry } from "prom-client";
import type { PrefillResult } from "./disaggregation/prefill-step.ts";
import type { ShedReason } from "./overload/admission.ts";
import { type Priority, priorities } from "./overload/fair-queue.ts";
import type { RetryReason } from "./proxy/forward.ts";
import type { DecisionMeasure, Prediction } from "./quality/decision-quality.ts";
import type { Decision } from "./routing/decision.ts";
import { matchingRatio } from "./routing/explain.ts";

/** Every metric the router exports. Label values are bounded: modes, reasons, outcomes, status classes. */
export class RouterMetrics {
  readonly #decisions: Counter<"mode" | "reason">;
  readonly #decisionSeconds: Histogram;
  readonly #stepSeconds: Histogram<"step">;
  readonly #matchingRatio: Histogram;
  readonly #promptTokens: Counter;
  readonly #matchedTokens: Counter;
  readonly #requests: Counter<"outcome" | "status">;
  readonly #firstByteSeconds: Histogram<"mode">;
  readonly #retries: Counter<"why">;
  readonly #verified: Counter<"result">;
  readonly #shared: Counter<"outcome">;
  readonly #predictions: Counter<"result">;
  readonly #predictedTokens: Counter<"source">;
  readonly #predictionError: Histogram;
  readonly #regret: Histogram;
  readonly #ingesterSilence: Histogram;
  readonly #shed: Counter<"why" | "priority">;
  /** Counters and histograms of label values that were there before: looking them up by their labels costs more than counting. */
  readonly #decided = new Map<string, Counter.Internal>();
  readonly #finished = new Map<string, Counter.Internal>();
  readonly #firstBytes = new Map<string, Histogram.Internal<"mode">>();
  readonly #queueSeconds: Histogram<"priority">;
  readonly #divisions: Counter<"outcome">;
  readonly #prefills: Counter<"result">;
  readonly #prefillSeconds: Histogram;

  constructor(
    registry: Registry,
    live: {
      readonly openRequests: () => number;
      /** By pool. */
      readonly readyEndpoints: () => Iterable<readonly [pool: string, count: number]>;
      readonly bodyBytes: () => number;
      readonly queued: (priority: Priority) => number;
    },
  ) {
    const registers = [registry];
    this.#decisions = new Counter({
      name: "kvatlas_router_decisions_total",
      help: "Routing decisions by mode and reason; mode load counts what was routed without knowledge of caches.",
      labelNames: ["mode", "reason"],
      registers,
    });
    this.#decisionSeconds = new Histogram({
      name: "kvatlas_router_decision_seconds",
      help: "A whole decision: tokenization, keys, lookup and load, score.",
      buckets: [...buckets.fastSeconds],
      registers,
    });
    this.#stepSeconds = new Histogram({
      name: "kvatlas_router_decision_step_seconds",
      help: "Steps of a decision: tokenize, keys, lookup.",
      labelNames: ["step"],
      buckets: [...buckets.fastSeconds],
      registers,
    });
    this.#matchingRatio = new Histogram({
      name: "kvatlas_router_matching_ratio",
      help: "Part of the looked-up blocks that the picked endpoint holds, of precise and estimated decisions.",
      buckets: [...buckets.ratio],
      registers,
    });
    this.#promptTokens = new Counter({
      name: "kvatlas_router_prompt_tokens_total",
      help: "Prompt tokens of precise and estimated decisions.",
      registers,
    });
    this.#matchedTokens = new Counter({
      name: "kvatlas_router_matched_tokens_total",
      help: "Of kvatlas_router_prompt_tokens_total, those the picked endpoint held.",
      registers,
    });
    this.#requests = new Counter({
      name: "kvatlas_router_requests_total",
      help: "Proxied requests by outcome (completed, client-gone, cut, refused) and status class.",
      labelNames: ["outcome", "status"],
      registers,
    });
    this.#firstByteSeconds = new Histogram({
      name: "kvatlas_router_first_byte_seconds",
      help: "From the request received to the first byte of the answer's body.",
      labelNames: ["mode"],
      buckets: [...buckets.requestSeconds],
      registers,
    });
    this.#retries = new Counter({
      name: "kvatlas_router_retries_total",
      help: "Attempts on another endpoint, by what was wrong with the one before: connect, cut (before the first byte), unavailable (503); over-budget counts those that were not made.",
      labelNames: ["why"],
      registers,
    });
    this.#predictions = new Counter({
      name: "kvatlas_router_predictions_total",
      help: "Answers in which the engine told how many prompt tokens it had cached: as predicted (exact), fewer (over), more (under).",
      labelNames: ["result"],
      registers,
    });
    this.#predictedTokens = new Counter({
      name: "kvatlas_router_prediction_tokens_total",
      help: "Cached prompt tokens of those answers: predicted by the router, reported by the engine.",
      labelNames: ["source"],
      registers,
    });
    this.#predictionError = new Histogram({
      name: "kvatlas_router_prediction_error_tokens",
      help: "Difference between predicted and reported cached tokens, either way.",
      buckets: [...buckets.count],
      registers,
    });
    this.#regret = new Histogram({
      name: "kvatlas_router_regret_tokens",
      help: "Prompt tokens that another endpoint held more than the picked one; what was given up for load.",
      buckets: [...buckets.count],
      registers,
    });
    this.#ingesterSilence = new Histogram({
      name: "kvatlas_router_ingester_silence_seconds",
      help: "Since the last heartbeat of the ingester of the picked endpoint, when it was picked; how far the index is behind is kvatlas_ingester_lag_seconds.",
      buckets: [0.25, 0.5, 1, 2, 5, 10, 30, 60],
      registers,
    });
    this.#shared = new Counter({
      name: "kvatlas_router_history_routings_total",
      help: "Routings on their way to the other routers (estimates, speculation): ok, failed, or dropped because the store was slower than the requests.",
      labelNames: ["outcome"],
      registers,
    });
    this.#verified = new Counter({
      name: "kvatlas_router_lookups_verified_total",
      help: "Sampled probing lookups compared with exact ones, per endpoint: agree or disagree.",
      labelNames: ["result"],
      registers,
    });
    this.#shed = new Counter({
      name: "kvatlas_router_shed_total",
      help: "Requests answered 429 by overload control: full, would-wait, waited, displaced, sheddable.",
      labelNames: ["why", "priority"],
      registers,
    });
    this.#queueSeconds = new Histogram({
      name: "kvatlas_router_queue_seconds",
      help: "How long requests waited for their turn in the router, of those that had to.",
      labelNames: ["priority"],
      buckets: [...buckets.requestSeconds],
      registers,
    });
    this.#divisions = new Counter({
      name: "kvatlas_router_divisions_total",
      help: "Requests of pools with replicas for prefill: divided between two replicas, or computed as a whole because short, held, same-replica, indivisible, no-prefill, no-decode.",
      labelNames: ["outcome"],
      registers,
    });
    this.#prefills = new Counter({
      name: "kvatlas_router_prefill_steps_total",
      help: "Prefill steps of divided requests, per attempt: handed over, nothing (computed, not handed over), unreachable, failed (5xx), refused (4xx), timeout, client-gone.",
      labelNames: ["result"],
      registers,
    });
    this.#prefillSeconds = new Histogram({
      name: "kvatlas_router_prefill_step_seconds",
      help: "Prefill steps that were handed over, from the request sent to the end of its answer.",
      buckets: [...buckets.requestSeconds],
      registers,
    });
    new Gauge({
      name: "kvatlas_router_queued_requests",
      help: "Requests that wait for their turn in the router.",
      labelNames: ["priority"],
      registers,
      collect() {
        for (const priority of priorities) this.set({ priority }, live.queued(priority));
      },
    });
    new Gauge({
      name: "kvatlas_router_open_requests",
      help: "Requests being read, decided or answered.",
      registers,
      collect() {
        this.set(live.openRequests());
      },
    });
    new Gauge({
      name: "kvatlas_router_ready_endpoints",
      help: "Endpoints that count as ready, by pool.",
      labelNames: ["pool"],
      registers,
      collect() {
        for (const [pool, count] of live.readyEndpoints()) this.set({ pool }, count);
      },
    });
    new Gauge({
      name: "kvatlas_router_body_bytes",
      help: "Request bodies held.",
      registers,
      collect() {
        this.set(live.bodyBytes());
      },
    });
  }

  decided(decision: Decision): void {
    const { timings } = decision;
    const { mode, reason } = decision;
    childOf(this.#decided, `${mode} ${reason}`, () => this.#decisions.labels({ mode, reason })).inc();
    this.#decisionSeconds.observe(timings.totalMs / 1_000);
    if (decision.division !== undefined) this.#divisions.inc({ outcome: decision.division.outcome });
    if (timings.tokenizeMs !== null) this.#stepSeconds.observe({ step: "tokenize" }, timings.tokenizeMs / 1_000);
    if (timings.keysMs !== null) this.#stepSeconds.observe({ step: "keys" }, timings.keysMs / 1_000);
    if (timings.lookupMs !== null) this.#stepSeconds.observe({ step: "lookup" }, timings.lookupMs / 1_000);
    if (decision.mode !== "precise" && decision.mode !== "estimated") return;
    this.#matchingRatio.observe(matchingRatio(decision));
    this.#promptTokens.inc(decision.promptTokens ?? 0);
    this.#matchedTokens.inc(decision.matchedTokens);
  }

  firstByte(mode: string, ms: number): void {
    childOf(this.#firstBytes, mode, () => this.#firstByteSeconds.labels({ mode })).observe(ms / 1_000);
  }

  finished(outcome: "completed" | "client-gone" | "cut" | "refused", status: number | null): void {
    const statusClass = status === null ? 0 : Math.floor(status / 100);
    childOf(this.#finished, `${outcome} ${statusClass}`, () =>
      this.#requests.labels({ outcome, status: statusClass === 0 ? "none" : `${statusClass}xx` }),
    ).inc();
  }

  retried(why: RetryReason): void {
    this.#retries.inc({ why });
  }

  prefilled(result: PrefillResult, ms: number): void {
    this.#prefills.inc({ result });
    if (result === "handed") this.#prefillSeconds.observe(ms / 1_000);
  }

  shed(why: ShedReason, priority: Priority): void {
    this.#shed.inc({ why, priority });
  }

  waited(priority: Priority, ms: number): void {
    this.#queueSeconds.observe({ priority }, ms / 1_000);
  }

  predicted({ predictedTokens, reportedTokens }: Prediction): void {
    const error = predictedTokens - reportedTokens;
    this.#predictions.inc({ result: error === 0 ? "exact" : error > 0 ? "over" : "under" });
    this.#predictedTokens.inc({ source: "predicted" }, predictedTokens);
    this.#predictedTokens.inc({ source: "reported" }, reportedTokens);
    this.#predictionError.observe(Math.abs(error));
  }

  measured({ regretTokens, ingesterSilenceMs }: DecisionMeasure): void {
    this.#regret.observe(regretTokens);
    if (ingesterSilenceMs !== null) this.#ingesterSilence.observe(ingesterSilenceMs / 1_000);
  }

  shared(outcome: "ok" | "failed" | "dropped", routings: number): void {
    this.#shared.inc({ outcome }, routings);
  }

  verified(agrees: boolean): void {
    this.#verified.inc({ result: agrees ? "agree" : "disagree" });
  }
}

/** The series of some labels, looked for once. */
function childOf<Child>(known: Map<string, Child>, name: string, find: () => Child): Child {
  let child = known.get(name);
  if (child === undefined) {
    child = find();
    known.set(name, child);
  }
  return child;
}
