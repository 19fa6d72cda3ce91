import type { Clock } from "@kvatlas/shared/clock";
import type { Logger } from "@kvatlas/shared/logger";
import type { EndpointMeta, EndpointRegistry, Lease } from "@kvatlas/shared/registry/endpoint-registry";
import { pickByRendezvous } from "@kvatlas/shared/rendezvous";
import type { EndpointId } from "@kvatlas/shared/types";
import type { ReplicaTarget } from "../discovery/replica-target.ts";
import type { IngesterMetrics } from "../metrics.ts";
import type { SessionEnd } from "../pipeline/endpoint-session.ts";
import { orAborted } from "../pipeline/store-retry.ts";

/** What is done for an endpoint while it is owned. */
export interface Tenure {
  /** The first start after the lease; resolves when it ends by itself or was ended. */
  run(): Promise<SessionEnd>;
  heartbeat(): Promise<void>;
  /** Ends it in good order, for the next owner to go on at once. */
  close(): Promise<void>;
  /** Ends it without another write. */
  abandon(): Promise<void>;
}

export interface OwnershipDeps {
  readonly registry: EndpointRegistry;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly metrics: IngesterMetrics;
  readonly openTenure: (target: ReplicaTarget, lease: Lease, stored: EndpointMeta | null) => Tenure;
}

export interface OwnershipOptions {
  readonly instanceId: string;
  readonly leaseTtlMs: number;
  readonly heartbeatMs: number;
}

interface Owned {
  readonly target: ReplicaTarget;
  readonly lease: Lease;
  readonly tenure: Tenure;
  leaving: Promise<void> | null;
}

/** A store that does not answer does not hold a goodbye up for longer; leases and beats age. */
const closeTimeoutMs = 4_000;
/** A tenure that failed is tried again after this time. */
const retryAfterMs = 1_000;

/**
 * Divides the endpoints among the living ingesters: rendezvous hashing of the replica's address over those whose heartbeat is young, each
 * endpoint guarded by a lease with a fencing number. In bind mode the one that receives a publisher's frames owns it instead, because nobody else can.
 *
 * Two beats that disagree about who is alive do no harm: the lease decides, and the index refuses the lower fence. Wall clocks of ingesters
 * need not agree: beats are kept and compared in the time of the store.
 */
export class Ownership {
  readonly #deps: OwnershipDeps;
  readonly #options: OwnershipOptions;
  readonly #targets = new Map<EndpointId, ReplicaTarget>();
  readonly #owned = new Map<EndpointId, Owned>();
  /** Endpoints whose frames come to this instance. */
  readonly #claimed = new Set<EndpointId>();
  readonly #claiming = new Set<EndpointId>();
  readonly #evictedAt = new Map<EndpointId, number>();
  readonly #retryAt = new Map<EndpointId, number>();
  #timer: NodeJS.Timeout | null = null;
  #beating: Promise<void> | null = null;
  #closing: Promise<void> | null = null;
  #beatAt: number | null = null;
  #others: readonly string[] = [];

  constructor(deps: OwnershipDeps, options: OwnershipOptions, targets: readonly ReplicaTarget[]) {
    this.#deps = deps;
    this.#options = options;
    for (const target of targets) this.#targets.set(target.endpoint, target);
  }

  get targets(): ReadonlyMap<EndpointId, ReplicaTarget> {
    return this.#targets;
  }

  /** Monotonic ms of the last complete beat; null before the first. */
  get beatAt(): number | null {
    return this.#beatAt;
  }

  owns(endpoint: EndpointId): boolean {
    return this.#owned.has(endpoint);
  }

  /** Begins to beat; does not wait for the registry to answer. */
  start(): void {
    // Twice per beat, so that a vanished owner is noticed soon after its time is up.
    this.#timer ??= setInterval(() => void this.beat(), Math.max(10, this.#options.heartbeatMs / 2));
    void this.beat();
  }

  /** One round: say that we live, see who else does, keep, give up and take endpoints. Rounds do not overlap. */
  beat(): Promise<void> {
    this.#beating ??= this.#round()
      .catch((error: unknown) => this.#deps.logger.warn({ err: error }, "a heartbeat failed; the next one tries again"))
      .finally(() => {
        this.#beating = null;
      });
    return this.#beating;
  }

  /** Frames of this endpoint come to this instance: it takes the endpoint over, from another owner too. Cheap when it owns it already. */
  claim(target: ReplicaTarget): void {
    const { endpoint } = target;
    if (this.#targets.get(endpoint)?.model !== target.model) this.#targets.set(endpoint, target);
    this.#claimed.add(endpoint);
    const owned = this.#owned.get(endpoint);
    if (owned !== undefined && owned.leaving === null && owned.target.model !== target.model) {
      // Another engine at the same address. Not again at once, should two of them take turns.
      this.#retryAt.set(endpoint, this.#deps.clock.monotonic() + retryAfterMs);
      void this.#giveWay(owned).catch((error: unknown) => this.#failedHandOver(owned, error));
    }
    if (owned !== undefined || this.#claiming.has(endpoint) || this.#closing !== null) return;
    if (this.#deps.clock.monotonic() < (this.#retryAt.get(endpoint) ?? 0)) return;
    this.#claiming.add(endpoint);
    this.#takeOver(endpoint)
      .catch((error: unknown) =>
        this.#deps.logger.warn({ err: error, endpoint }, "an endpoint could not be claimed; its next event tries again"),
      )
      .finally(() => this.#claiming.delete(endpoint));
  }

  /** An endpoint that is looked after by whoever rendezvous says, until somebody receives its frames. */
  adopt(target: ReplicaTarget): void {
    if (!this.#targets.has(target.endpoint)) this.#targets.set(target.endpoint, target);
  }

  /** Gives up and forgets a departed endpoint. */
  async drop(endpoint: EndpointId): Promise<void> {
    this.#targets.delete(endpoint);
    this.#claimed.delete(endpoint);
    this.#retryAt.delete(endpoint);
    this.#evictedAt.delete(endpoint);
    const owned = this.#owned.get(endpoint);
    if (owned !== undefined) await this.#handOver(owned);
  }

  /** Hands every endpoint over and says goodbye, so that the others need not wait for leases and beats to age. */
  close(): Promise<void> {
    this.#closing ??= this.#leave();
    return this.#closing;
  }

  async #leave(): Promise<void> {
    if (this.#timer !== null) clearInterval(this.#timer);
    this.#timer = null;
    const { registry, logger } = this.#deps;
    // Leaving comes first: others begin to ask for the endpoints while they are being handed over.
    const goodbye = registry.leave("ingester", this.#options.instanceId);
    const handOvers = [...this.#owned.values()].map((owned) => this.#handOver(owned));
    const deadline = AbortSignal.timeout(closeTimeoutMs);
    const steps = await Promise.allSettled([goodbye, ...handOvers].map((step) => orAborted(step, deadline)));
    for (const step of steps)
      if (step.status === "rejected") logger.warn({ err: step.reason }, "an endpoint was not handed over in good order");
  }

  async #round(): Promise<void> {
    const { registry, clock } = this.#deps;
    const { instanceId, leaseTtlMs } = this.#options;
    if (this.#closing !== null) return;
    const now = clock.now();
    await registry.beat("ingester", instanceId, now);
    const alive = await registry.instances("ingester", now, leaseTtlMs);
    this.#noteOthers(alive);
    const members = alive.includes(instanceId) ? alive : [...alive, instanceId];
    const isMine = (target: ReplicaTarget): boolean =>
      this.#claimed.has(target.endpoint) || pickByRendezvous(target.address, members) === instanceId;

    await Promise.all([...this.#owned.values()].map((owned) => this.#keep(owned)));
    for (const owned of this.#owned.values()) {
      if (!isMine(owned.target)) void this.#handOver(owned).catch((error: unknown) => this.#failedHandOver(owned, error));
    }
    const wanted = [...this.#targets.values()].filter((target) => this.#isFree(target) && isMine(target));
    if (wanted.length > 0) await this.#take(wanted);
    this.#beatAt = clock.monotonic();
  }

  #noteOthers(alive: readonly string[]): void {
    const others = alive.filter((id) => id !== this.#options.instanceId);
    if (others.join() !== this.#others.join()) this.#deps.logger.info({ others }, "the set of living ingesters has changed");
    this.#others = others;
  }

  #isFree(target: ReplicaTarget): boolean {
    const { endpoint } = target;
    if (this.#owned.has(endpoint) || this.#claiming.has(endpoint)) return false;
    return this.#deps.clock.monotonic() >= (this.#retryAt.get(endpoint) ?? 0);
  }

  async #keep(owned: Owned): Promise<void> {
    const { registry, logger, metrics } = this.#deps;
    const kept = await registry.renew(owned.lease, this.#options.leaseTtlMs);
    if (kept) {
      await owned.tenure.heartbeat();
      return;
    }
    if (this.#owned.get(owned.target.endpoint) !== owned) return;
    metrics.leases.inc({ change: "lost" });
    logger.warn({ endpoint: owned.target.endpoint, fence: owned.lease.fence }, "the lease is lost");
    this.#forget(owned);
    this.#claimed.delete(owned.target.endpoint);
    await owned.tenure.abandon();
  }

  async #take(wanted: readonly ReplicaTarget[]): Promise<void> {
    const { registry } = this.#deps;
    const { instanceId, leaseTtlMs } = this.#options;
    const leases = await Promise.all(wanted.map((target) => registry.acquire(target.endpoint, instanceId, leaseTtlMs)));
    if (leases.every((lease) => lease === null)) return;
    const records = new Map((await registry.endpoints()).map((record) => [record.id, record.meta]));
    for (const [i, target] of wanted.entries()) {
      const lease = leases[i];
      if (lease !== undefined && lease !== null) this.#begin(target, lease, records.get(target.endpoint) ?? null);
    }
  }

  async #takeOver(endpoint: EndpointId): Promise<void> {
    const { registry, clock, logger } = this.#deps;
    const { instanceId, leaseTtlMs } = this.#options;
    const target = this.#targets.get(endpoint);
    if (target === undefined) return;
    let lease = await registry.acquire(endpoint, instanceId, leaseTtlMs);
    if (lease === null) {
      // At most once per lease time, should two instances receive the same publisher's frames.
      const evictedAt = this.#evictedAt.get(endpoint) ?? Number.NEGATIVE_INFINITY;
      if (clock.monotonic() - evictedAt < leaseTtlMs) {
        this.#retryAt.set(endpoint, evictedAt + leaseTtlMs);
        return;
      }
      const { owner, fence } = await registry.state(endpoint);
      if (owner !== null) await registry.release({ endpoint, owner, fence });
      this.#evictedAt.set(endpoint, clock.monotonic());
      logger.info({ endpoint, from: owner }, "the publisher has moved here, and the endpoint with it");
      lease = await registry.acquire(endpoint, instanceId, leaseTtlMs);
      if (lease === null) return;
    }
    const record = (await registry.endpoints()).find((candidate) => candidate.id === endpoint);
    this.#begin(target, lease, record?.meta ?? null);
  }

  #begin(target: ReplicaTarget, lease: Lease, stored: EndpointMeta | null): void {
    if (this.#closing !== null || this.#owned.has(target.endpoint)) {
      void this.#deps.registry.release(lease).catch(() => {});
      return;
    }
    const tenure = this.#deps.openTenure(target, lease, stored);
    const owned: Owned = { target, lease, tenure, leaving: null };
    this.#owned.set(target.endpoint, owned);
    this.#deps.metrics.leases.inc({ change: "taken" });
    this.#deps.metrics.owned.set(this.#owned.size);
    void tenure.run().then((end) => this.#ended(owned, end));
  }

  /** A tenure that ended by itself: another owner has come, or it failed. */
  async #ended(owned: Owned, end: SessionEnd): Promise<void> {
    const { endpoint } = owned.target;
    if (this.#owned.get(endpoint) !== owned || owned.leaving !== null) return;
    this.#forget(owned);
    this.#retryAt.set(endpoint, this.#deps.clock.monotonic() + retryAfterMs);
    await owned.tenure.abandon();
    if (end !== "lost") await this.#deps.registry.release(owned.lease).catch(() => {});
  }

  #handOver(owned: Owned): Promise<void> {
    owned.leaving ??= (async () => {
      try {
        await owned.tenure.close();
      } finally {
        await this.#deps.registry.release(owned.lease);
        this.#forget(owned);
        this.#deps.metrics.leases.inc({ change: "handed over" });
      }
    })();
    return owned.leaving;
  }

  /** Ends a tenure without taking in what has been received: it is for the next one. */
  #giveWay(owned: Owned): Promise<void> {
    owned.leaving ??= (async () => {
      await owned.tenure.abandon();
      await this.#deps.registry.release(owned.lease);
      this.#forget(owned);
    })();
    return owned.leaving;
  }

  #failedHandOver(owned: Owned, error: unknown): void {
    this.#forget(owned);
    this.#deps.logger.warn(
      { err: error, endpoint: owned.target.endpoint },
      "the endpoint was not handed over in good order; its lease runs out",
    );
  }

  #forget(owned: Owned): void {
    if (this.#owned.get(owned.target.endpoint) === owned) this.#owned.delete(owned.target.endpoint);
    this.#deps.metrics.owned.set(this.#owned.size);
  }
}
