import type { Clock } from "@kvatlas/shared/clock";
import type { EndpointRecord, EndpointRegistry } from "@kvatlas/shared/registry/endpoint-registry";
import type { EndpointId } from "@kvatlas/shared/types";

export interface AdoptIdleDeps {
  readonly registry: Pick<EndpointRegistry, "endpoints">;
  readonly clock: Clock;
  readonly isKnown: (endpoint: EndpointId) => boolean;
  readonly adopt: (record: EndpointRecord) => void;
}

/**
 * Bind mode: takes in replicas that dialled an ingester which has died, so that their health and load are known while they are idle. Their next
 * event brings them to whoever receives it.
 */
export async function adoptIdle({ registry, clock, isKnown, adopt }: AdoptIdleDeps, options: { readonly afterMs: number }): Promise<void> {
  const now = clock.now();
  for (const record of await registry.endpoints()) {
    if (!isKnown(record.id) && now - record.heartbeat >= options.afterMs) adopt(record);
  }
}
