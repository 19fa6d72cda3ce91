import type { Clock } from "@kvatlas/shared/clock";
import type { Logger } from "@kvatlas/shared/logger";
import type { EndpointLoad, EndpointRegistry } from "@kvatlas/shared/registry/endpoint-registry";
import type { EndpointId } from "@kvatlas/shared/types";
import type { IngesterMetrics } from "../metrics.ts";
import { orAborted } from "../pipeline/store-retry.ts";
import type { EngineClient, EngineModels } from "./engine-client.ts";
import { type EngineMetrics, metricsOfRank, type SleepState } from "./engine-metrics.ts";

/** What one look at a replica has shown. */
export interface ReplicaObservation {
  /** Monotonic ms when the look began: what it shows is not older. */
  readonly startedAt: number;
  /** The server answers its health check with 200. */
  readonly healthy: boolean;
  /** It answers at all. */
  readonly reachable: boolean;
  /** Null when `/metrics` did not answer. */
  readonly metrics: EngineMetrics | null;
  /** Answer of `/is_sleeping`, asked where `/metrics` does not say; null when that does not say either (it needs vLLM's development mode). */
  readonly isSleeping: boolean | null;
  /** Null when `/v1/models` was not asked this time, or did not answer. */
  readonly models: EngineModels | null;
}

/** Null when nothing tells. Where only `/is_sleeping` does, which names no level, the cache is taken for gone. */
export function sleepStateOf(observation: ReplicaObservation, rank: number): SleepState | null {
  const told = metricsOfRank(observation.metrics, rank)?.sleep ?? null;
  if (told !== null || observation.isSleeping === null) return told;
  return observation.isSleeping ? "discarded" : "awake";
}

export interface ScrapeTarget {
  readonly endpoint: EndpointId;
  readonly address: string;
  readonly rank: number;
  /** Called after each look, in the order of looks. */
  readonly onObservation: (observation: ReplicaObservation) => void;
}

export interface LoadScraperDeps {
  readonly engine: EngineClient;
  readonly registry: Pick<EndpointRegistry, "setLoad">;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly metrics: IngesterMetrics;
}

export interface LoadScraperOptions {
  readonly intervalMs: number;
}

/** One look at a replica may take this long; its next one is due after that. */
const timeoutMs = 2_000;
/** Adapters come and go at the operator's pace. */
const modelsEveryMs = 5_000;

interface Replica {
  readonly targets: Map<EndpointId, ScrapeTarget>;
  busy: boolean;
  modelsReadAt: number;
  /** `/is_sleeping` is asked from then on, monotonic ms. */
  sleepDueAt: number;
}

/**
 * Looks at every owned replica: `/health`, `/metrics` and now and then `/v1/models`, one look per replica however many ranks it has, so that
 * N routers cost one scrape. Loads go to the registry, the rest to the endpoint's session. A slow replica delays no other.
 */
export class LoadScraper {
  readonly #deps: LoadScraperDeps;
  readonly #options: LoadScraperOptions;
  readonly #replicas = new Map<string, Replica>();
  readonly #abort = new AbortController();
  readonly #running = new Set<Promise<void>>();
  #timer: NodeJS.Timeout | null = null;

  constructor(deps: LoadScraperDeps, options: LoadScraperOptions) {
    this.#deps = deps;
    this.#options = options;
  }

  start(): void {
    this.#timer ??= setInterval(() => this.#tick(), this.#options.intervalMs);
  }

  /** Begins at once. */
  add(target: ScrapeTarget): void {
    let replica = this.#replicas.get(target.address);
    if (replica === undefined) {
      replica = { targets: new Map(), busy: false, modelsReadAt: Number.NEGATIVE_INFINITY, sleepDueAt: 0 };
      this.#replicas.set(target.address, replica);
    }
    replica.targets.set(target.endpoint, target);
    this.#begin(target.address, replica);
  }

  remove(target: Pick<ScrapeTarget, "address" | "endpoint">): void {
    const replica = this.#replicas.get(target.address);
    replica?.targets.delete(target.endpoint);
    if (replica?.targets.size === 0) this.#replicas.delete(target.address);
  }

  async close(): Promise<void> {
    if (this.#timer !== null) clearInterval(this.#timer);
    this.#timer = null;
    this.#abort.abort();
    await Promise.allSettled(this.#running);
  }

  #tick(): void {
    for (const [address, replica] of this.#replicas) this.#begin(address, replica);
  }

  #begin(address: string, replica: Replica): void {
    if (replica.busy || this.#abort.signal.aborted) return;
    replica.busy = true;
    const look = this.#look(address, replica)
      .catch((error: unknown) => this.#deps.logger.error({ err: error, address }, "looking at a replica failed"))
      .finally(() => {
        replica.busy = false;
        this.#running.delete(look);
      });
    this.#running.add(look);
  }

  async #look(address: string, replica: Replica): Promise<void> {
    const { engine, clock } = this.#deps;
    const startedAt = clock.monotonic();
    const signal = AbortSignal.any([this.#abort.signal, AbortSignal.timeout(timeoutMs)]);
    const wantsModels = startedAt - replica.modelsReadAt >= modelsEveryMs;
    const [health, metrics, models] = await Promise.allSettled([
      engine.health(address, signal),
      engine.metrics(address, signal),
      wantsModels ? engine.models(address, signal) : Promise.resolve(null),
    ]);
    if (this.#abort.signal.aborted) return;
    const healthy = health.status === "fulfilled" && health.value;
    // Asked again at the next look when the replica was not up yet.
    if (wantsModels && models.status === "fulfilled" && healthy) replica.modelsReadAt = startedAt;
    this.#deps.metrics.scrapes.inc({ outcome: healthy ? (metrics.status === "fulfilled" ? "ok" : "no metrics") : "unhealthy" });
    const page = metrics.status === "fulfilled" ? metrics.value : null;
    const observation: ReplicaObservation = {
      startedAt,
      healthy,
      reachable: health.status === "fulfilled" || page !== null,
      metrics: page,
      isSleeping: healthy ? await this.#isSleeping(address, replica, page, signal) : null,
      models: models.status === "fulfilled" ? models.value : null,
    };
    const loads = new Map<EndpointId, EndpointLoad>();
    for (const target of replica.targets.values()) {
      target.onObservation(observation);
      const numbers = metricsOfRank(observation.metrics, target.rank);
      const sleep = sleepStateOf(observation, target.rank);
      if (numbers !== null) loads.set(target.endpoint, { ...numbers.load, sleeping: sleep !== null && sleep !== "awake", at: clock.now() });
    }
    if (loads.size === 0) return;
    try {
      await orAborted(this.#deps.registry.setLoad(loads), this.#abort.signal);
    } catch (error) {
      this.#deps.logger.debug({ err: error, address }, "load could not be written; the next look tries again");
    }
  }

  async #isSleeping(address: string, replica: Replica, page: EngineMetrics | null, signal: AbortSignal): Promise<boolean | null> {
    const { engine, clock } = this.#deps;
    const ranks = [...(page?.ranks.values() ?? [])];
    const isTold = ranks.length > 0 && ranks.every((numbers) => numbers.sleep !== null);
    if (isTold || clock.monotonic() < replica.sleepDueAt) return null;
    const answer = await engine.isSleeping(address, signal).catch(() => null);
    // A server without the route gets it at its next start at the earliest.
    if (answer === null) replica.sleepDueAt = clock.monotonic() + modelsEveryMs;
    return answer;
  }
}
