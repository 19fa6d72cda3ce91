import type { PoolRecord } from "./pool-record.ts";

/**
 * What discovery knows of the pools, by name, and who is discovering: one instance for the whole fleet. Records outlive it, so that what was known last
 * stays while nobody can look. Rejects with KVATLAS_REDIS_UNAVAILABLE when the store cannot be reached; every method is safe to repeat.
 */
export interface PoolRecords {
  /**
   * Takes or extends the right to write for `ttlMs`, and writes; null removes a record. In one step: who has lost the right writes nothing.
   *
   * @returns false while somebody else has the right
   */
  lead(owner: string, ttlMs: number, changes: ReadonlyMap<string, PoolRecord | null>): Promise<boolean>;
  /** Gives the right back, so that others need not wait. */
  resign(owner: string): Promise<void>;
  /** Who has the right; null: nobody. */
  leader(): Promise<string | null>;
  read(): Promise<ReadonlyMap<string, PoolRecord>>;
  /** Calls back when a record has changed (best effort: poll as well). Returns the way to stop. */
  onChange(listener: () => void): () => void;
}
