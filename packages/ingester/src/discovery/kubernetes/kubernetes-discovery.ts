import { isDeepStrictEqual } from "node:util";
import type { Clock } from "@kvatlas/shared/clock";
import type { KubernetesEndpoints } from "@kvatlas/shared/config/kubernetes-schema";
import type { Component } from "@kvatlas/shared/lifecycle";
import type { Logger } from "@kvatlas/shared/logger";
import type { PoolRecord } from "@kvatlas/shared/registry/pool-record";
import type { PoolRecords } from "@kvatlas/shared/registry/pool-records";
import { orAborted } from "../../pipeline/store-retry.ts";
import type { DiscoveryMetrics } from "./discovery-metrics.ts";
import { reasonOf } from "./kube-access.ts";
import type { KubeApi } from "./kube-api.ts";
import { NamespaceObjects } from "./namespace-objects.ts";
import { nothingKnown, PoolWatch } from "./pool-watch.ts";
import type { ResourceWatchDeps, WatchTiming } from "./resource-watch.ts";

export interface KubernetesDiscoveryDeps {
  readonly records: PoolRecords;
  readonly api: KubeApi;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly metrics: DiscoveryMetrics;
  /** @defaultValue Math.random */
  readonly random?: () => number;
}

export interface KubernetesDiscoveryOptions {
  readonly instanceId: string;
  readonly pools: readonly { readonly name: string; readonly settings: KubernetesEndpoints }[];
  /** How long the right to watch stays with an instance that has fallen silent. */
  readonly leaseTtlMs: number;
  readonly timing?: Partial<WatchTiming>;
  /** Changes that come together are written together. @defaultValue 50 */
  readonly settleMs?: number;
}

/** An instance that has seen nothing of any pool for so many leases lets another one try, and is away for as long. */
const blindLeases = 5;
const closeTimeoutMs = 2_000;

/**
 * Watches the pods of all pools and writes what it sees, for the whole fleet: one instance at a time does, under a lease; the others look whether it is free.
 * Whoever begins starts from what was written last, so a change of watchers changes nothing for anybody, nor does an API server that is away.
 */
export class KubernetesDiscovery implements Component {
  readonly name = "kubernetes-discovery";
  readonly #deps: KubernetesDiscoveryDeps;
  readonly #options: KubernetesDiscoveryOptions;
  readonly #abort = new AbortController();
  #watching: Watching | null = null;
  #running: Promise<void> | null = null;
  #closing: Promise<void> | null = null;
  #wake: () => void = () => {};
  #seeingAt: number;
  #awayUntil = Number.NEGATIVE_INFINITY;

  constructor(deps: KubernetesDiscoveryDeps, options: KubernetesDiscoveryOptions) {
    this.#deps = deps;
    this.#options = options;
    this.#seeingAt = deps.clock.monotonic();
  }

  async start(): Promise<void> {
    this.#running ??= this.#run();
  }

  close(): Promise<void> {
    this.#closing ??= (async () => {
      this.#abort.abort();
      this.#wake();
      await this.#running;
      const wasWatching = this.#watching !== null;
      await this.#end();
      if (!wasWatching) return;
      const resigned = this.#deps.records.resign(this.#options.instanceId);
      await orAborted(resigned, AbortSignal.timeout(closeTimeoutMs)).catch((error: unknown) =>
        this.#deps.logger.debug({ err: error }, "the right to watch was not given back; it runs out"),
      );
    })();
    return this.#closing;
  }

  async #run(): Promise<void> {
    const { signal } = this.#abort;
    while (!signal.aborted) {
      try {
        await this.#turn();
      } catch (error) {
        if (!signal.aborted) this.#deps.logger.warn({ err: error }, "discovery could not be written; it is tried again");
      }
      await this.#pause(signal);
    }
  }

  async #turn(): Promise<void> {
    const { records, clock, logger, metrics } = this.#deps;
    const { instanceId, leaseTtlMs } = this.#options;
    if (clock.monotonic() < this.#awayUntil) return;
    const lead = (changes: ReadonlyMap<string, PoolRecord>) => orAborted(records.lead(instanceId, leaseTtlMs, changes), this.#abort.signal);
    if (this.#watching === null) {
      if (!(await lead(new Map()))) return;
      this.#watching = await this.#begin();
      if (this.#watching === null) return;
      logger.info({ pools: this.#options.pools.map(({ name }) => name) }, "this instance watches the cluster for the fleet");
    }
    const watching = this.#watching;
    // The store may have lost what it was told.
    const written = await orAborted(records.read(), this.#abort.signal);
    const changes = new Map<string, PoolRecord>();
    for (const [name, watch] of watching.pools) {
      const record = watch.record(clock.now());
      if (record === null) continue;
      metrics.targets.set({ pool: name, state: "ready" }, record.targets.filter(({ ready }) => ready).length);
      metrics.targets.set({ pool: name, state: "not ready" }, record.targets.filter(({ ready }) => !ready).length);
      if (!isSame(record, written.get(name))) changes.set(name, record);
    }
    if (!(await lead(changes))) {
      logger.info("another instance watches the cluster now");
      await this.#end();
      return;
    }
    metrics.leading.set(1);
    await this.#giveWayIfBlind(watching);
  }

  /** Null when there is no way to the API server: no file, no context. */
  async #begin(): Promise<Watching | null> {
    const { api, logger, metrics, random = Math.random } = this.#deps;
    const { timing = {} } = this.#options;
    const last = await orAborted(this.#deps.records.read(), this.#abort.signal);
    const pools = new Map<string, PoolWatch>();
    const namespaces = new Map<string, NamespaceObjects>();
    let own: string;
    try {
      own = await api.namespace();
    } catch (error) {
      await this.#cannotBegin(reasonOf(error), last);
      return null;
    }
    const deps: ResourceWatchDeps = {
      api,
      logger,
      random,
      onChange: () => this.#wake(),
      onRequest: (resource, outcome) => metrics.requests.inc({ resource, outcome }),
    };
    for (const { name, settings } of this.#options.pools) {
      const namespace = settings.namespace ?? own;
      let objects: NamespaceObjects | null = null;
      if (settings.inferencePool !== undefined) {
        objects = namespaces.get(namespace) ?? new NamespaceObjects(deps, namespace, timing);
        namespaces.set(namespace, objects);
      }
      pools.set(name, new PoolWatch(deps, { settings, namespace, last: last.get(name) ?? null, objects, timing }));
    }
    for (const watch of [...namespaces.values(), ...pools.values()]) watch.start();
    this.#seeingAt = this.#deps.clock.monotonic();
    return { pools, namespaces };
  }

  async #cannotBegin(problem: string, last: ReadonlyMap<string, PoolRecord>): Promise<void> {
    const { records, clock, logger } = this.#deps;
    const { instanceId, leaseTtlMs, pools } = this.#options;
    logger.warn(`the cluster cannot be watched: ${problem}`);
    const at = clock.now();
    const changes = new Map(pools.map(({ name }) => [name, { ...(last.get(name) ?? nothingKnown), problems: [problem], at }]));
    await orAborted(records.lead(instanceId, leaseTtlMs, changes), this.#abort.signal);
    await orAborted(records.resign(instanceId), this.#abort.signal);
    this.#awayUntil = clock.monotonic() + blindLeases * leaseTtlMs;
  }

  async #end(): Promise<void> {
    const watching = this.#watching;
    this.#watching = null;
    this.#deps.metrics.leading.set(0);
    this.#deps.metrics.targets.reset();
    if (watching === null) return;
    await Promise.all([...watching.pools.values(), ...watching.namespaces.values()].map((watch) => watch.close()));
  }

  /** Another instance may have a way to the API server, or the rights, that this one lacks. */
  async #giveWayIfBlind(watching: Watching): Promise<void> {
    const { clock, records, logger } = this.#deps;
    const { instanceId, leaseTtlMs } = this.#options;
    const now = clock.monotonic();
    if (![...watching.pools.values()].every((watch) => watch.isBlind)) this.#seeingAt = now;
    if (now - this.#seeingAt < blindLeases * leaseTtlMs) return;
    logger.warn("nothing can be seen of the cluster from here; another instance may try");
    this.#awayUntil = now + blindLeases * leaseTtlMs;
    await this.#end();
    await orAborted(records.resign(instanceId), this.#abort.signal);
  }

  /** Until something has changed, at most a third of the lease. */
  async #pause(signal: AbortSignal): Promise<void> {
    const { leaseTtlMs, settleMs = 50 } = this.#options;
    await new Promise<void>((resolve) => {
      const most = setTimeout(resolve, leaseTtlMs / 3);
      this.#wake = () => {
        this.#wake = () => {};
        setTimeout(
          () => {
            clearTimeout(most);
            resolve();
          },
          signal.aborted ? 0 : settleMs,
        );
      };
      if (signal.aborted) this.#wake();
    });
  }
}

interface Watching {
  readonly pools: ReadonlyMap<string, PoolWatch>;
  readonly namespaces: ReadonlyMap<string, NamespaceObjects>;
}

/** But for the time of writing. */
function isSame(a: PoolRecord, b: PoolRecord | undefined): boolean {
  return b !== undefined && isDeepStrictEqual({ ...a, at: 0 }, { ...b, at: 0 });
}
