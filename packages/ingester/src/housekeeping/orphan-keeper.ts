import type { Clock } from "@kvatlas/shared/clock";
import type { BlockIndex } from "@kvatlas/shared/index/block-index";
import type { Logger } from "@kvatlas/shared/logger";
import type { EndpointRecord, EndpointRegistry } from "@kvatlas/shared/registry/endpoint-registry";
import type { EndpointId } from "@kvatlas/shared/types";

export interface OrphanKeeperDeps {
  readonly registry: Pick<EndpointRegistry, "endpoints" | "acquire" | "remove" | "release">;
  readonly index: Pick<BlockIndex, "forget">;
  readonly clock: Clock;
  readonly logger: Logger;
  /** Configured, or known by their publishers. */
  readonly isKnown: (endpoint: EndpointId) => boolean;
  /** Takes a replica in that nobody looks after; false when replicas are not found that way here (connect mode). */
  readonly adopt: (record: EndpointRecord) => boolean;
}

export interface OrphanKeeperOptions {
  readonly instanceId: string;
  readonly leaseTtlMs: number;
  /** Age of the last sign of life at which a record that is in nobody's configuration is an orphan. */
  readonly orphanAfterMs: number;
}

/**
 * Deals with records of endpoints that nobody looks after: a replica that dialled an ingester which has died is adopted, so that its health
 * and load are known while it is idle; a replica that has left the configuration is forgotten, its cache with it.
 */
export async function keepOrphans(deps: OrphanKeeperDeps, options: OrphanKeeperOptions): Promise<void> {
  const now = deps.clock.now();
  for (const record of await deps.registry.endpoints()) {
    if (deps.isKnown(record.id) || now - record.heartbeat < options.orphanAfterMs) continue;
    if (deps.adopt(record)) continue;
    // The lease keeps others from doing the same, and an owner with another configuration from losing its endpoint.
    const lease = await deps.registry.acquire(record.id, options.instanceId, options.leaseTtlMs);
    if (lease === null) continue;
    if (record.meta.scope !== null) await deps.index.forget(record.meta.scope, record.id);
    await deps.registry.remove(record.id);
    await deps.registry.release(lease);
    deps.logger.info({ endpoint: record.id }, "an endpoint that nobody looks after is forgotten");
  }
}
