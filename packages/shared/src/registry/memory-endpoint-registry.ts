import { type Clock, systemClock } from "../clock.ts";
import type { ScopeSpec } from "../hashing/key-scheme.ts";
import { scopeTag } from "../index/redis-keys.ts";
import type { EndpointId, ScopeId } from "../types.ts";
import { emptyMeta, FORGET_INSTANCES_MS, sumInflight } from "./endpoint-defaults.ts";
import type {
  EndpointLoad,
  EndpointMeta,
  EndpointRecord,
  EndpointRegistry,
  EndpointState,
  Inflight,
  InstanceRole,
  Lease,
} from "./endpoint-registry.ts";

export interface MemoryRegistryDeps {
  /** @defaultValue the system's */
  readonly clock?: Clock;
}

interface MemoryEndpoint {
  meta: EndpointMeta | null;
  heartbeat: number;
  state: EndpointState;
  leaseOwner: string | null;
  leaseUntil: number;
}

interface MemoryInflight {
  readonly inflight: ReadonlyMap<EndpointId, Inflight>;
  readonly until: number;
}

/** The registry of one process, without Redis. */
export class MemoryEndpointRegistry implements EndpointRegistry {
  readonly #clock: Clock;
  readonly #instances: Record<InstanceRole, Map<string, number>> = { ingester: new Map(), router: new Map() };
  readonly #endpoints = new Map<EndpointId, MemoryEndpoint>();
  readonly #scopes = new Map<ScopeId, ScopeSpec & { readonly shards: number; readonly tag: string }>();
  readonly #loads = new Map<EndpointId, EndpointLoad>();
  readonly #inflight = new Map<string, MemoryInflight>();
  readonly #listeners = new Set<() => void>();
  // Never used twice, not even for an endpoint that was removed and came back.
  #lastIncarnation = 0;
  #lastFence = 0;

  constructor(deps: MemoryRegistryDeps = {}) {
    this.#clock = deps.clock ?? systemClock;
  }

  async beat(role: InstanceRole, instanceId: string, nowMs: number): Promise<void> {
    const beats = this.#instances[role];
    beats.set(instanceId, nowMs);
    for (const [id, beat] of beats) if (beat < nowMs - FORGET_INSTANCES_MS) beats.delete(id);
  }

  async instances(role: InstanceRole, nowMs: number, ttlMs: number): Promise<readonly string[]> {
    const alive = [...this.#instances[role]].filter(([, beat]) => Math.abs(beat - nowMs) < ttlMs);
    return alive.map(([id]) => id).sort();
  }

  async leave(role: InstanceRole, instanceId: string): Promise<void> {
    this.#instances[role].delete(instanceId);
  }

  async acquire(endpoint: EndpointId, owner: string, ttlMs: number): Promise<Lease | null> {
    const entry = this.#endpoint(endpoint);
    const now = this.#clock.now();
    if (entry.leaseOwner !== null && entry.leaseOwner !== owner && entry.leaseUntil > now) return null;
    this.#lastFence += 1;
    entry.leaseOwner = owner;
    entry.leaseUntil = now + ttlMs;
    entry.state = { ...entry.state, owner, fence: this.#lastFence };
    this.#changed();
    return { endpoint, owner, fence: this.#lastFence };
  }

  async renew(lease: Lease, ttlMs: number): Promise<boolean> {
    const entry = this.#endpoints.get(lease.endpoint);
    if (entry === undefined || !holds(entry, lease)) return false;
    entry.leaseUntil = this.#clock.now() + ttlMs;
    return true;
  }

  async release(lease: Lease): Promise<void> {
    const entry = this.#endpoints.get(lease.endpoint);
    if (entry !== undefined && holds(entry, lease)) entry.leaseOwner = null;
  }

  async describe(lease: Lease, meta: Partial<EndpointMeta>, nowMs: number): Promise<boolean> {
    const entry = this.#endpoints.get(lease.endpoint);
    if (entry === undefined || entry.state.fence !== lease.fence) return false;
    const before = entry.meta ?? emptyMeta;
    const after = { ...before, ...meta };
    const isChanged = entry.meta === null || JSON.stringify(before) !== JSON.stringify(after);
    entry.meta = after;
    entry.heartbeat = nowMs;
    if (isChanged) this.#changed();
    return true;
  }

  async startIncarnation(lease: Lease, from: number): Promise<number | null> {
    const entry = this.#endpoints.get(lease.endpoint);
    if (entry === undefined || entry.state.fence !== lease.fence) return null;
    this.#lastIncarnation += 1;
    entry.state = { ...entry.state, incarnation: this.#lastIncarnation, from };
    this.#changed();
    return this.#lastIncarnation;
  }

  async state(endpoint: EndpointId): Promise<EndpointState> {
    return this.#endpoints.get(endpoint)?.state ?? { incarnation: 0, from: 0, owner: null, fence: 0 };
  }

  async remove(endpoint: EndpointId): Promise<void> {
    this.#loads.delete(endpoint);
    if (this.#endpoints.delete(endpoint)) this.#changed();
  }

  async endpoints(): Promise<readonly EndpointRecord[]> {
    const records: EndpointRecord[] = [];
    for (const [id, { meta, heartbeat, state }] of this.#endpoints) {
      if (meta !== null) records.push({ id, heartbeat, meta, state });
    }
    return records.sort((left, right) => (left.id < right.id ? -1 : 1));
  }

  async ensureScope(scope: ScopeId, spec: ScopeSpec): Promise<number> {
    const known = this.#scopes.get(scope);
    if (known !== undefined) return known.shards;
    this.#scopes.set(scope, { ...spec, shards: 1, tag: scopeTag(scope) });
    this.#changed();
    return 1;
  }

  async scopes(): Promise<ReadonlyMap<ScopeId, ScopeSpec & { readonly shards: number; readonly tag: string }>> {
    return new Map(this.#scopes);
  }

  async setLoad(loads: ReadonlyMap<EndpointId, EndpointLoad>): Promise<void> {
    for (const [endpoint, load] of loads) this.#loads.set(endpoint, load);
  }

  async setInflight(routerId: string, inflight: ReadonlyMap<EndpointId, Inflight>, ttlMs: number): Promise<void> {
    this.#inflight.set(routerId, { inflight: new Map(inflight), until: this.#clock.now() + ttlMs });
  }

  async changeInflight(routerId: string, changed: ReadonlyMap<EndpointId, Inflight>, ttlMs: number): Promise<void> {
    if (changed.size === 0) return;
    const now = this.#clock.now();
    const before = this.#inflight.get(routerId);
    const current = before !== undefined && before.until > now ? before.inflight : [];
    this.#inflight.set(routerId, { inflight: new Map([...current, ...changed]), until: now + ttlMs });
  }

  async readLoad(
    routerIds: readonly string[],
  ): Promise<{ readonly loads: ReadonlyMap<EndpointId, EndpointLoad>; readonly inflight: ReadonlyMap<EndpointId, Inflight> }> {
    const now = this.#clock.now();
    const current = routerIds.flatMap((id) => {
      const entry = this.#inflight.get(id);
      return entry !== undefined && entry.until > now ? [entry.inflight] : [];
    });
    return { loads: new Map(this.#loads), inflight: sumInflight(current) };
  }

  onChange(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => void this.#listeners.delete(listener);
  }

  async close(): Promise<void> {
    this.#listeners.clear();
  }

  #endpoint(id: EndpointId): MemoryEndpoint {
    let entry = this.#endpoints.get(id);
    if (entry === undefined) {
      entry = {
        meta: null,
        heartbeat: 0,
        state: { incarnation: 0, from: 0, owner: null, fence: 0 },
        leaseOwner: null,
        leaseUntil: 0,
      };
      this.#endpoints.set(id, entry);
    }
    return entry;
  }

  #changed(): void {
    for (const listener of this.#listeners) queueMicrotask(listener);
  }
}

function holds(entry: MemoryEndpoint, lease: Lease): boolean {
  return entry.leaseOwner === lease.owner && entry.state.fence === lease.fence;
}
