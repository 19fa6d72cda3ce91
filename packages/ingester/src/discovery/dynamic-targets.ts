import { type IngesterConfig, type PoolConfig, poolSchema } from "@kvatlas/shared/config/schema";
import type { EndpointRecord } from "@kvatlas/shared/registry/endpoint-registry";
import type { EndpointId } from "@kvatlas/shared/types";
import { endpointIdOf, offsetPort, type ReplicaTarget } from "./replica-target.ts";
import { staticTargets } from "./static-source.ts";
import type { EventTopic } from "./topic.ts";

/** Topics are written by publishers: whoever floods us with names gets no more endpoints than this. */
const maxTargets = 4_096;

/**
 * Bind mode: endpoints by what their publishers say of themselves. A replica that is configured by address is that one; of the others the model
 * decides on the pool, and a model that no pool names gets a pool of its own with default settings.
 */
export class DynamicTargets {
  #pools: readonly PoolConfig[];
  readonly #settings: Pick<IngesterConfig, "bindHttpPort" | "bindReplayPort">;
  #configured: ReadonlyMap<EndpointId, ReplicaTarget>;
  readonly #known = new Map<EndpointId, ReplicaTarget>();

  constructor(pools: readonly PoolConfig[], settings: Pick<IngesterConfig, "bindHttpPort" | "bindReplayPort">) {
    this.#pools = pools;
    this.#settings = settings;
    this.#configured = new Map(staticTargets(pools).map((target) => [target.endpoint, target]));
  }

  /** What is configured, and what has been discovered, as it is now. */
  reconfigure(pools: readonly PoolConfig[], targets: ReadonlyMap<EndpointId, ReplicaTarget>): void {
    this.#pools = pools;
    this.#configured = targets;
  }

  /** Null when there are too many, or when the endpoint is dialled by configuration: one publisher is read through one socket. */
  targetOf(topic: EventTopic, rank: number): ReplicaTarget | null {
    const address = `${topic.host}:${topic.port ?? this.#settings.bindHttpPort}`;
    const endpoint = endpointIdOf(address, rank);
    const known = this.#known.get(endpoint);
    if (known !== undefined && (known.model === topic.model || this.#configured.has(endpoint))) return known;
    const configured = this.#configured.get(endpoint);
    if (configured !== undefined && configured.events !== null) return null;
    if (known === undefined && this.#known.size >= maxTargets) return null;
    const { bindReplayPort } = this.#settings;
    const replay = bindReplayPort === null ? null : offsetPort(`tcp://${topic.host}:${bindReplayPort}`, rank);
    const target =
      configured === undefined
        ? { endpoint, address, rank, pool: this.#poolOf(topic.model), model: topic.model, events: null, replay }
        : { ...configured, replay: configured.replay ?? replay };
    this.#known.set(endpoint, target);
    return target;
  }

  /** True for a replica that is known by its publisher alone. */
  has(endpoint: EndpointId): boolean {
    return this.#known.has(endpoint) && !this.#configured.has(endpoint);
  }

  /** A replica that dialled another ingester, by the record it has left. Null for what cannot have come that way. */
  targetOfRecord(record: EndpointRecord): ReplicaTarget | null {
    const { address, rank, model } = record.meta;
    const host = address.replace(/:\d+$/, "");
    const port = Number(address.slice(host.length + 1));
    return host === "" || model === "" || !Number.isInteger(port) ? null : this.targetOf({ host, port, model }, rank);
  }

  forget(endpoint: EndpointId): void {
    this.#known.delete(endpoint);
  }

  #poolOf(model: string): PoolConfig {
    const pool = this.#pools.find((candidate) => candidate.model === model);
    if (pool !== undefined) return pool;
    const name = model.replace(/[^A-Za-z0-9._-]+/g, "-").slice(0, 64);
    return poolSchema.parse({ name: name === "" ? "unnamed" : name, model });
  }
}
