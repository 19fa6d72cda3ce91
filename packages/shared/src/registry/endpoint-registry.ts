import type { ExtrasForm, ScopeSpec } from "../hashing/key-scheme.ts";
import type { CacheGroup, EndpointId, ScopeId } from "../types.ts";

/** The right to write for one endpoint, until `expiresAt`. */
export interface Lease {
  readonly endpoint: EndpointId;
  readonly owner: string;
  /** Grows with every take-over; the index refuses lower ones. */
  readonly fence: number;
}

/** What is known of an endpoint; written by its owner, read by routers and people. */
export interface EndpointMeta {
  /** `host:port` of the HTTP server. */
  readonly address: string;
  readonly pool: string;
  /** Model name as clients ask for it; empty until learned. */
  readonly model: string;
  /** Data-parallel rank behind that address. */
  readonly rank: number;
  /** Null until the first self-describing event told block size and key scheme. */
  readonly scope: ScopeId | null;
  readonly extrasForm: ExtrasForm | null;
  readonly lookaheadTokens: number;
  readonly groups: readonly CacheGroup[];
  /** Adapters by name, with the path they were loaded from. */
  readonly loras: Readonly<Record<string, string>>;
  /** The HTTP server answers its health check. */
  readonly ready: boolean;
  /** Engine process start as it reports it, seconds since the epoch; null when it does not. */
  readonly processStartSeconds: number | null;
  /**
   * A batch that has been applied in the current incarnation and the engine's own time stamp of it: the next owner compares the replayed batch with
   * it, because sequence numbers alone do not show that the engine has restarted in between. Absent or null until one has been applied.
   */
  readonly lastBatch?: { readonly seq: number; readonly timestampSeconds: number } | null;
  /**
   * First batch that was given up because no replay was answered: it may still be there, whoever owns the endpoint by then. Absent or null: none.
   */
  readonly owedFrom?: number | null;
  /** The engine's events have shown reports of reused blocks (`kv_cache_report_mode: full`). @defaultValue false */
  readonly reportsReuse?: boolean;
  /** Images are named apart for each adapter (`--enable-tower-connector-lora`), as its events have shown. @defaultValue false */
  readonly mediaByAdapter?: boolean;
  /** Contradictions and other findings, by name; empty when all is well. */
  readonly findings: Readonly<Record<string, string>>;
}

/** The part of the entry that only the index protocol changes. */
export interface EndpointState {
  /** 0 until the first writer. */
  readonly incarnation: number;
  /** Sequence number at which the incarnation begins. */
  readonly from: number;
  readonly owner: string | null;
  readonly fence: number;
}

/** From the engine's `/metrics`. */
export interface EndpointLoad {
  readonly waiting: number;
  readonly running: number;
  /** 0..1 */
  readonly kvUsage: number;
  /** KV-cache capacity in tokens; null when the engine does not tell. */
  readonly maxTokens: number | null;
  readonly runningLoras: readonly string[];
  readonly waitingLoras: readonly string[];
  /** Adapters that can run at the same time; absent when the engine does not tell. */
  readonly maxLoras?: number;
  readonly sleeping: boolean;
  /** When it was read, ms since the epoch. */
  readonly at: number;
}

export interface EndpointRecord {
  readonly id: EndpointId;
  /** ms since the epoch, by the clock of whoever reads it, of the owner's last sign of life. */
  readonly heartbeat: number;
  readonly meta: EndpointMeta;
  readonly state: EndpointState;
}

/** Work that one router has sent to an endpoint and not yet seen finished. */
export interface Inflight {
  readonly requests: number;
  /** Uncached prompt tokens of requests that have not produced a first byte. */
  readonly prefillTokens: number;
  /** Prompt and answer tokens of requests that are producing. */
  readonly decodeTokens: number;
}

export type InstanceRole = "ingester" | "router";

/**
 * Endpoints, their owners, load and the instances of our services: the small shared state beside the index.
 * Times that callers pass and get are those of their own clocks; what is kept is the time of the store, so clocks of several machines may differ.
 * Every method is one or two round trips and safe to repeat; those of load and in-flight work, which requests wait for, are one.
 * Rejects with KVATLAS_REDIS_UNAVAILABLE when the store cannot be reached.
 */
export interface EndpointRegistry {
  /** Marks an instance alive now. */
  beat(role: InstanceRole, instanceId: string, nowMs: number): Promise<void>;
  /**
   * Instances whose last beat is younger than `ttlMs`, sorted. One that is as far in the future counts as dead too: a clock that is ahead would keep its
   * instance alive for as long as it is ahead.
   */
  instances(role: InstanceRole, nowMs: number, ttlMs: number): Promise<readonly string[]>;
  /** Says goodbye, so that others need not wait for the beat to age. */
  leave(role: InstanceRole, instanceId: string): Promise<void>;

  /** Takes a free (or own) endpoint for `ttlMs` and raises its fence, above every fence it has ever had; null while another owner's lease runs. */
  acquire(endpoint: EndpointId, owner: string, ttlMs: number): Promise<Lease | null>;
  /** Extends the lease, also one that has run out and that nobody else has taken since; false when it has been lost or given back. */
  renew(lease: Lease, ttlMs: number): Promise<boolean>;
  release(lease: Lease): Promise<void>;

  /** Writes (part of) an endpoint's meta and its heartbeat; false when a later fence holds it. */
  describe(lease: Lease, meta: Partial<EndpointMeta>, nowMs: number): Promise<boolean>;
  /**
   * Announces a new incarnation that begins at sequence number `from`; returns its number, or null when a later fence holds the endpoint.
   * Numbers grow and are never used twice, even for an endpoint that was removed and has come back; they need not be consecutive.
   */
  startIncarnation(lease: Lease, from: number): Promise<number | null>;
  state(endpoint: EndpointId): Promise<EndpointState>;
  /** Forgets a departed endpoint: its entry, load and lease. Its blocks are forgotten by the index (`BlockIndex.forget`). */
  remove(endpoint: EndpointId): Promise<void>;
  /** Endpoints that have been described at least once, sorted by id. */
  endpoints(): Promise<readonly EndpointRecord[]>;

  /**
   * Registers a scope and returns its shards. The first writer fixes them; where they do not suit any more (one Redis has become a cluster) the scope is
   * registered anew under another tag: its index is empty then, and its writers, who are told KVATLAS_INDEX_BEHIND, fill it from replays.
   */
  ensureScope(scope: ScopeId, spec: ScopeSpec): Promise<number>;
  scopes(): Promise<ReadonlyMap<ScopeId, ScopeSpec & { readonly shards: number; readonly tag: string }>>;

  setLoad(loads: ReadonlyMap<EndpointId, EndpointLoad>): Promise<void>;
  /** Replaces all that the router has said of its in-flight work. */
  setInflight(routerId: string, inflight: ReadonlyMap<EndpointId, Inflight>, ttlMs: number): Promise<void>;
  /** Replaces what the router has said of these endpoints, for about a third of the cost. What has expired meanwhile is not brought back. */
  changeInflight(routerId: string, changed: ReadonlyMap<EndpointId, Inflight>, ttlMs: number): Promise<void>;
  /** Load of all endpoints and the sum of the in-flight work of the named routers: what one decision reads. */
  readLoad(routerIds: readonly string[]): Promise<{
    readonly loads: ReadonlyMap<EndpointId, EndpointLoad>;
    readonly inflight: ReadonlyMap<EndpointId, Inflight>;
  }>;

  /** Calls back when an endpoint or scope has changed (best effort: poll as well). Returns the way to stop. */
  onChange(listener: () => void): () => void;
  close(): Promise<void>;
}
