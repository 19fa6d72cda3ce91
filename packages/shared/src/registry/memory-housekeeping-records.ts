import type { EndpointId } from "../types.ts";
import type { HousekeepingRecords, RebuildRequest } from "./housekeeping-records.ts";

/** The records of one process. */
export class MemoryHousekeepingRecords implements HousekeepingRecords {
  readonly #progress = new Map<string, string>();
  readonly #rebuilds = new Map<EndpointId, RebuildRequest>();

  async progress(): Promise<ReadonlyMap<string, string>> {
    return new Map(this.#progress);
  }

  async saveProgress(task: string, text: string | null): Promise<void> {
    if (text === null) this.#progress.delete(task);
    else this.#progress.set(task, text);
  }

  async requestRebuild(request: RebuildRequest): Promise<void> {
    this.#rebuilds.set(request.endpoint, request);
  }

  async rebuildRequests(): Promise<readonly RebuildRequest[]> {
    return [...this.#rebuilds.values()];
  }

  async endRebuild(endpoint: EndpointId, incarnation: number): Promise<void> {
    const request = this.#rebuilds.get(endpoint);
    if (request !== undefined && request.incarnation <= incarnation) this.#rebuilds.delete(endpoint);
  }
}
