import type { StoreState } from "@kvatlas/shared/backend";
import type { Clock } from "@kvatlas/shared/clock";
import type { Component } from "@kvatlas/shared/lifecycle";
import type { Logger } from "@kvatlas/shared/logger";
import type { EndpointRegistry } from "@kvatlas/shared/registry/endpoint-registry";
import type { HousekeepingMetrics } from "./housekeeping-metrics.ts";
import { periodically } from "./periodically.ts";

export interface WatchMemoryDeps {
  readonly registry: Pick<EndpointRegistry, "instances">;
  readonly store: Pick<StoreState, "memory">;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly metrics: Pick<HousekeepingMetrics, "showMemory">;
}

export interface WatchMemoryOptions {
  readonly instanceId: string;
  /** Age of the last heartbeat at which an ingester no longer counts. */
  readonly leaseTtlMs: number;
}

const LOOK_EVERY_MS = 2_000;

/** Shows how full the store is. In a fleet one ingester does, so that sums over all of them are right: the first of those that live. */
export function watchMemory(deps: WatchMemoryDeps, { instanceId, leaseTtlMs }: WatchMemoryOptions): Component {
  const { registry, store, clock, logger, metrics } = deps;
  async function look(): Promise<void> {
    const [first] = await registry.instances("ingester", clock.now(), leaseTtlMs);
    metrics.showMemory(first === instanceId ? await store.memory() : []);
  }
  return periodically("memory", look, LOOK_EVERY_MS, logger);
}
