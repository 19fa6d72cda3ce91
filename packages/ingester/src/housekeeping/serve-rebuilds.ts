import type { Logger } from "@kvatlas/shared/logger";
import type { HousekeepingRecords } from "@kvatlas/shared/registry/housekeeping-records";
import type { EndpointId } from "@kvatlas/shared/types";

/** What an owner can do about an endpoint whose index is wrong. */
export interface Rebuildable {
  /** Current incarnation; 0 before it is known. */
  readonly incarnation: number;
  /** Begins a new incarnation from what can be replayed. */
  rebuild(): void;
}

export interface ServeRebuildsDeps {
  readonly records: Pick<HousekeepingRecords, "rebuildRequests" | "endRebuild">;
  readonly logger: Logger;
  /** Null for endpoints of other owners. */
  readonly ownedHere: (endpoint: EndpointId) => Rebuildable | null;
  readonly onRebuild: () => void;
}

/**
 * Does what audits have asked the owners of this instance's endpoints for. Only the owner can: its lease's fence is what makes a new incarnation
 * possible. A request stays until a later incarnation is there, so that one whose owner dies is served by the next.
 */
export async function serveRebuilds({ records, logger, ownedHere, onRebuild }: ServeRebuildsDeps): Promise<void> {
  for (const { endpoint, incarnation, reason } of await records.rebuildRequests()) {
    const owned = ownedHere(endpoint);
    if (owned === null || owned.incarnation === 0) continue;
    if (owned.incarnation === incarnation) {
      logger.warn({ endpoint, incarnation, reason }, "the endpoint's index is built anew");
      onRebuild();
      owned.rebuild();
    } else {
      await records.endRebuild(endpoint, incarnation);
    }
  }
}
