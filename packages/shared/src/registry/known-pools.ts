import type { PoolRecord } from "./pool-record.ts";

/**
 * Records as a reader goes by them: the last one of each pool stays. Nobody takes a record away while its pool is configured somewhere, so one that is missing
 * has been lost with the store's data, and comes again as it is.
 */
export class KnownPools {
  #records: ReadonlyMap<string, PoolRecord> = new Map();

  get records(): ReadonlyMap<string, PoolRecord> {
    return this.#records;
  }

  /** @returns all of them */
  update(read: ReadonlyMap<string, PoolRecord>): ReadonlyMap<string, PoolRecord> {
    const isComplete = [...this.#records.keys()].every((pool) => read.has(pool));
    this.#records = isComplete ? read : new Map([...this.#records, ...read]);
    return this.#records;
  }
}
