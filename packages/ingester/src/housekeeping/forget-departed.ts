import type { Clock } from "@kvatlas/shared/clock";
import type { BlockIndex } from "@kvatlas/shared/index/block-index";
import type { Logger } from "@kvatlas/shared/logger";
import type { EndpointRegistry } from "@kvatlas/shared/registry/endpoint-registry";
import type { HousekeepingRecords } from "@kvatlas/shared/registry/housekeeping-records";
import type { EndpointId } from "@kvatlas/shared/types";
import { sweepTask } from "./sweep-state.ts";

export interface ForgetDepartedDeps {
  readonly registry: Pick<EndpointRegistry, "endpoints" | "acquire" | "remove" | "release">;
  readonly index: Pick<BlockIndex, "forget">;
  readonly records: Pick<HousekeepingRecords, "saveProgress">;
  readonly clock: Clock;
  readonly logger: Logger;
  /** Configured here, or known here by their publishers. */
  readonly isKnown: (endpoint: EndpointId) => boolean;
}

export interface ForgetDepartedOptions {
  readonly instanceId: string;
  readonly leaseTtlMs: number;
  /** Age of the last sign of life at which a record that nobody knows is forgotten. */
  readonly departedAfterMs: number;
}

/**
 * Forgets replicas that have left: their cache dies at once, its bytes go with the next purge. An ingester that has a replica configured looks after
 * it, which keeps its record young and its lease taken: neither can be forgotten by another one. Killed half-way, the next run does the rest.
 *
 * @returns the endpoints that were forgotten
 */
export async function forgetDeparted(
  deps: ForgetDepartedDeps,
  options: ForgetDepartedOptions,
  signal: AbortSignal,
): Promise<readonly EndpointId[]> {
  const { registry, index, records, clock, logger } = deps;
  const now = clock.now();
  const forgotten: EndpointId[] = [];
  for (const { id, heartbeat, meta } of await registry.endpoints()) {
    if (signal.aborted) break;
    if (deps.isKnown(id) || now - heartbeat < options.departedAfterMs) continue;
    const lease = await registry.acquire(id, options.instanceId, options.leaseTtlMs);
    if (lease === null) continue;
    if (meta.scope !== null) {
      await records.saveProgress(sweepTask(meta.scope), null);
      await index.forget(meta.scope, id);
    }
    await registry.remove(id);
    await registry.release(lease);
    forgotten.push(id);
    logger.info({ endpoint: id }, "an endpoint that nobody looks after is forgotten");
  }
  return forgotten;
}
