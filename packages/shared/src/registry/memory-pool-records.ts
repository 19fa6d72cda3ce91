import { type Clock, systemClock } from "../clock.ts";
import type { PoolRecord } from "./pool-record.ts";
import type { PoolRecords } from "./pool-records.ts";

/** The records of one process. */
export class MemoryPoolRecords implements PoolRecords {
  readonly #clock: Clock;
  readonly #records = new Map<string, PoolRecord>();
  readonly #listeners = new Set<() => void>();
  #leader: { readonly owner: string; readonly until: number } | null = null;

  constructor(clock: Clock = systemClock) {
    this.#clock = clock;
  }

  async lead(owner: string, ttlMs: number, changes: ReadonlyMap<string, PoolRecord | null>): Promise<boolean> {
    const leader = await this.leader();
    if (leader !== null && leader !== owner) return false;
    this.#leader = { owner, until: this.#clock.now() + ttlMs };
    for (const [pool, record] of changes) {
      if (record === null) this.#records.delete(pool);
      else this.#records.set(pool, record);
    }
    if (changes.size > 0) for (const listener of this.#listeners) queueMicrotask(listener);
    return true;
  }

  async resign(owner: string): Promise<void> {
    if (this.#leader?.owner === owner) this.#leader = null;
  }

  async leader(): Promise<string | null> {
    return this.#leader !== null && this.#leader.until > this.#clock.now() ? this.#leader.owner : null;
  }

  async read(): Promise<ReadonlyMap<string, PoolRecord>> {
    return new Map(this.#records);
  }

  onChange(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => void this.#listeners.delete(listener);
  }
}
