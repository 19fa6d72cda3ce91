import type { EndpointId } from "../types.ts";

/** An audit has found that the index is wrong about an endpoint: its owner is asked to begin a new incarnation and to replay. */
export interface RebuildRequest {
  readonly endpoint: EndpointId;
  /** Of the endpoint when the damage was seen: a request for another one than the current is void. */
  readonly incarnation: number;
  readonly reason: string;
}

/**
 * What housekeeping leaves behind for whoever goes on: where a task stands, and what owners are asked to do. Small, and written seldom.
 * Rejects with KVATLAS_REDIS_UNAVAILABLE when the store cannot be reached; every method is safe to repeat.
 */
export interface HousekeepingRecords {
  /** Text by task, as last saved. */
  progress(): Promise<ReadonlyMap<string, string>>;
  /** Null forgets the task. */
  saveProgress(task: string, text: string | null): Promise<void>;
  /** The latest request for an endpoint replaces earlier ones. */
  requestRebuild(request: RebuildRequest): Promise<void>;
  rebuildRequests(): Promise<readonly RebuildRequest[]>;
  /** Withdraws the request, unless it has been replaced by one for a later incarnation. */
  endRebuild(endpoint: EndpointId, incarnation: number): Promise<void>;
}
