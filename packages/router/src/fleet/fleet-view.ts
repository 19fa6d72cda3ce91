import { setTimeout as wait } from "node:timers/promises";
import type { Clock } from "@kvatlas/shared/clock";
import type { PoolConfig } from "@kvatlas/shared/config/schema";
import type { ScopeSpec } from "@kvatlas/shared/hashing/key-scheme";
import type { Component } from "@kvatlas/shared/lifecycle";
import type { Logger } from "@kvatlas/shared/logger";
import type { EndpointRecord, EndpointRegistry } from "@kvatlas/shared/registry/endpoint-registry";
import { KnownPools } from "@kvatlas/shared/registry/known-pools";
import type { PoolRecords } from "@kvatlas/shared/registry/pool-records";
import type { ScopeId } from "@kvatlas/shared/types";
import { within } from "../deadline.ts";
import type { FleetSnapshot } from "./fleet.ts";
import { mergeFleet } from "./merge-fleet.ts";

export interface FleetViewDeps {
  readonly registry: Pick<EndpointRegistry, "endpoints" | "scopes" | "instances" | "beat" | "leave" | "onChange">;
  /** What discovery knows of pools. @defaultValue nothing */
  readonly pools?: Pick<PoolRecords, "read" | "onChange">;
  readonly clock: Clock;
  readonly logger: Logger;
}

export interface FleetViewOptions {
  readonly routerId: string;
  readonly pools: readonly PoolConfig[];
  readonly endpointTtlMs: number;
  /** Between two polls; changes are followed at once. @defaultValue 1000 */
  readonly pollIntervalMs?: number;
  /** Silence after which another router no longer counts. @defaultValue 5000 */
  readonly routerTtlMs?: number;
}

/** A registry that has not answered by then counts as out of reach; the first picture is waited for as long. */
const answerTimeoutMs = 2_000;
/** Between attempts to get the first picture. */
const firstRetryMs = 25;

/**
 * The router's picture of the fleet: configuration merged with the registry, refreshed on changes and by polling.
 * Reading it is free of I/O. While the registry is out of reach the last picture stands, with no endpoint ageing; configured endpoints are
 * there from the beginning.
 */
export class FleetView implements Component {
  readonly name = "fleet-view";
  readonly #deps: FleetViewDeps;
  readonly #options: FleetViewOptions;
  readonly #listeners = new Set<(fleet: FleetSnapshot) => void>();
  #snapshot: FleetSnapshot;
  #records: readonly EndpointRecord[] = [];
  #scopes: ReadonlyMap<ScopeId, ScopeSpec> = new Map();
  readonly #known = new KnownPools();
  readonly #isDiscovering: boolean;
  #silenceFromMs = 0;
  #refreshing: Promise<void> | null = null;
  #again = false;
  #started = false;
  #timer: NodeJS.Timeout | null = null;
  readonly #stopListening: (() => void)[] = [];
  #closing: Promise<void> | null = null;

  constructor(deps: FleetViewDeps, options: FleetViewOptions) {
    this.#deps = deps;
    this.#options = options;
    this.#isDiscovering = options.pools.some(({ endpoints }) => endpoints.kubernetes !== undefined);
    this.#snapshot = this.#merge([], [options.routerId], false);
  }

  get snapshot(): FleetSnapshot {
    return this.#snapshot;
  }

  /** Calls back after every refresh. Returns the way to stop. */
  onRefresh(listener: (fleet: FleetSnapshot) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Resolves once the registry has been read, or after a while without it: its connection may take a moment, and requests need not wait for it. */
  async start(): Promise<void> {
    const { clock, logger, registry, pools } = this.#deps;
    const onChange = (): void => void this.refresh();
    this.#stopListening.push(registry.onChange(onChange));
    if (this.#isDiscovering && pools !== undefined) this.#stopListening.push(pools.onChange(onChange));
    const deadline = clock.monotonic() + answerTimeoutMs;
    await this.refresh();
    for (let left = answerTimeoutMs / firstRetryMs; left > 0 && clock.monotonic() < deadline; left--) {
      if (this.#snapshot.registryReachable || this.#closing !== null) break;
      await wait(firstRetryMs);
      await this.refresh();
    }
    this.#started = true;
    if (!this.#snapshot.registryReachable) {
      logger.warn("registry cannot be read at start: configured replicas are routed to by load until it is there");
    }
    if (this.#closing !== null) return;
    this.#timer = setInterval(() => {
      if (this.#refreshing === null) void this.refresh();
    }, this.#options.pollIntervalMs ?? 1_000);
  }

  /** Reads the registry now; a call during a refresh makes one more follow. Never rejects. */
  refresh(): Promise<void> {
    if (this.#closing !== null) return Promise.resolve();
    if (this.#refreshing !== null) {
      this.#again = true;
      return this.#refreshing;
    }
    this.#refreshing = this.#refreshOnce().finally(() => {
      this.#refreshing = null;
      if (!this.#again) return;
      this.#again = false;
      void this.refresh();
    });
    return this.#refreshing;
  }

  close(): Promise<void> {
    this.#closing ??= (async () => {
      for (const stop of this.#stopListening) stop();
      if (this.#timer !== null) clearInterval(this.#timer);
      await this.#refreshing;
      try {
        await within(answerTimeoutMs, "saying goodbye", () => this.#deps.registry.leave("router", this.#options.routerId));
      } catch (error) {
        this.#deps.logger.debug({ err: error }, "could not say goodbye to the registry");
      }
    })();
    return this.#closing;
  }

  async #refreshOnce(): Promise<void> {
    const { registry, pools, clock, logger } = this.#deps;
    const { routerId } = this.#options;
    const nowMs = clock.now();
    try {
      const [records, scopes, routers, , discovered] = await within(answerTimeoutMs, "reading the registry", () =>
        Promise.all([
          registry.endpoints(),
          registry.scopes(),
          registry.instances("router", nowMs, this.#options.routerTtlMs ?? 5_000),
          registry.beat("router", routerId, nowMs),
          this.#isDiscovering ? (pools?.read() ?? null) : null,
        ]),
      );
      if (this.#started && !this.#snapshot.registryReachable) {
        this.#silenceFromMs = clock.now();
        logger.info({ endpoints: records.length }, "registry is reachable again");
      }
      this.#records = this.#carryOver(records);
      this.#scopes = scopes;
      if (discovered !== null) this.#known.update(discovered);
      this.#snapshot = this.#merge(this.#records, routers.includes(routerId) ? routers : [...routers, routerId].sort(), true);
    } catch (error) {
      if (this.#started && this.#snapshot.registryReachable) {
        logger.warn({ err: error }, "registry cannot be read: routing goes on with what is known");
      }
      this.#snapshot = { ...this.#snapshot, registryReachable: false };
    }
    for (const listener of this.#listeners) listener(this.#snapshot);
  }

  /**
   * After an outage the store may have lost its contents, and the owners need a moment to describe their endpoints again:
   * for one ttl, endpoints that were known before stay.
   */
  #carryOver(records: readonly EndpointRecord[]): readonly EndpointRecord[] {
    if (this.#deps.clock.now() - this.#silenceFromMs > this.#options.endpointTtlMs) return records;
    const ids = new Set(records.map((record) => record.id));
    return [...records, ...this.#records.filter((record) => !ids.has(record.id))];
  }

  #merge(records: readonly EndpointRecord[], routers: readonly string[], registryReachable: boolean): FleetSnapshot {
    return {
      pools: mergeFleet({
        pools: this.#options.pools,
        records,
        discovered: this.#known.records,
        nowMs: this.#deps.clock.now(),
        endpointTtlMs: this.#options.endpointTtlMs,
        silenceFromMs: this.#silenceFromMs,
      }),
      scopes: this.#scopes,
      routers,
      registryReachable,
    };
  }
}
