import type { QualityRecords, RouterQuality } from "./quality-records.ts";

/** The records of one process; it has few routers. */
export class MemoryQualityRecords implements QualityRecords {
  readonly #routers = new Map<string, RouterQuality>();

  async save(routerId: string, quality: RouterQuality): Promise<void> {
    this.#routers.set(routerId, quality);
  }

  async read(routerIds: readonly string[]): Promise<ReadonlyMap<string, RouterQuality>> {
    return new Map([...this.#routers].filter(([id]) => routerIds.includes(id)));
  }
}
