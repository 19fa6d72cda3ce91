import { metricsOfRank } from "./engine-metrics.ts";
import { type ReplicaObservation, sleepStateOf } from "./load-scraper.ts";

export type Health =
  | { readonly kind: "ok" }
  /** The server answers nothing. */
  | { readonly kind: "unreachable"; readonly forMs: number }
  /** The server answers, and says it is not well (vLLM: 503 once the engine is dead). */
  | { readonly kind: "unhealthy"; readonly forMs: number }
  /** The server says it is well, has requests, and gets nothing done. */
  | { readonly kind: "hung"; readonly forMs: number };

/** One endpoint's health over time, from looks at its replica. A sleeping engine is well: it is meant to get nothing done. */
export class HealthWatch {
  readonly #rank: number;
  readonly #hungAfterMs: number;
  #badSince: number | null = null;
  #progress: string | null = null;
  #progressAt = 0;
  #isHung = false;

  constructor(rank: number, options: { readonly hungAfterMs: number }) {
    this.#rank = rank;
    this.#hungAfterMs = options.hungAfterMs;
  }

  see(observation: ReplicaObservation): Health {
    const { startedAt } = observation;
    if (!observation.healthy) {
      this.#badSince ??= startedAt;
      return { kind: observation.reachable ? "unhealthy" : "unreachable", forMs: startedAt - this.#badSince };
    }
    this.#badSince = null;
    const numbers = metricsOfRank(observation.metrics, this.#rank);
    // Without numbers this time, nothing new is known of a hung engine.
    if (numbers === null) return this.#isHung ? { kind: "hung", forMs: startedAt - this.#progressAt } : { kind: "ok" };
    const sleep = sleepStateOf(observation, this.#rank);
    const isIdle = numbers.load.running + numbers.load.waiting === 0;
    if (isIdle || numbers.progress !== this.#progress || (sleep !== null && sleep !== "awake")) {
      this.#progress = numbers.progress;
      this.#progressAt = startedAt;
    }
    const forMs = startedAt - this.#progressAt;
    this.#isHung = forMs >= this.#hungAfterMs;
    return this.#isHung ? { kind: "hung", forMs } : { kind: "ok" };
  }
}
