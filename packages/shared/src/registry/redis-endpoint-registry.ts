import { setTimeout as sleep } from "node:timers/promises";
import { type Clock, systemClock } from "../clock.ts";
import { KvatlasError } from "../errors.ts";
import type { ScopeSpec } from "../hashing/key-scheme.ts";
import type { RedisKeys } from "../index/redis-keys.ts";
import { RedisScopeLayouts } from "../index/redis-scope-layouts.ts";
import { SCHEMA_VERSION } from "../index/scope-layout.ts";
import type { RedisCommand, RedisConnection, RedisReply } from "../redis.ts";
import { redisError } from "../redis-error.ts";
import { readScript, runScript } from "../redis-scripts.ts";
import type { EndpointId, ScopeId } from "../types.ts";
import { FORGET_INSTANCES_MS, sumInflight } from "./endpoint-defaults.ts";
import {
  inflightFromFields,
  inflightToText,
  loadFromText,
  metaFromFields,
  metaToFields,
  type ScopeRecord,
  scopeFromText,
  scopeToText,
  stateFromFields,
} from "./endpoint-fields.ts";
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
import { StoreTime } from "./store-time.ts";

export interface RedisRegistryDeps {
  readonly connection: RedisConnection;
  readonly keys: RedisKeys;
  /** The clock by which callers tell the time: what others read is written by the time of Redis. @defaultValue the system's */
  readonly clock?: Clock;
  /** What is known of the time of Redis; kept up to date here. @defaultValue its own */
  readonly time?: StoreTime;
}

export interface RedisRegistryOptions {
  /** Shards of scopes registered from now on: 1 on a single Redis, 16 or more on a cluster. @defaultValue 1 */
  readonly shards?: number | (() => Promise<number>);
}

/** How long the first to need the time of Redis wait for it; until it is known, their own is taken for it. */
const FIRST_TIME_MS = 1_000;

/** Tries at a higher incarnation number when Redis has lost the latest numbers: the second one succeeds, unless it keeps losing them. */
const MAX_INCARNATION_TRIES = 10;

/** The registry in Redis; docs/redis-schema.md shows it from the outside. Does not own its connection. */
export function createRedisEndpointRegistry(deps: RedisRegistryDeps, options: RedisRegistryOptions = {}): EndpointRegistry {
  return new RedisEndpointRegistry(deps, options);
}

class RedisEndpointRegistry implements EndpointRegistry {
  readonly #connection: RedisConnection;
  readonly #keys: RedisKeys;
  readonly #clock: Clock;
  readonly #shards: number | (() => Promise<number>);
  readonly #layouts: RedisScopeLayouts;
  readonly #stops = new Set<() => void>();
  readonly #time: StoreTime;
  #measuring: Promise<void> | null = null;
  readonly #scripts = {
    acquire: readScript("acquire-2"),
    renew: readScript("renew-2"),
    describe: readScript("describe-1"),
    incarnate: readScript("incarnate-1"),
    remember: readScript("remember-1"),
  };

  constructor(deps: RedisRegistryDeps, options: RedisRegistryOptions) {
    this.#connection = deps.connection;
    this.#keys = deps.keys;
    this.#clock = deps.clock ?? systemClock;
    this.#time = deps.time ?? new StoreTime(this.#clock);
    this.#shards = options.shards ?? 1;
    this.#layouts = new RedisScopeLayouts({ connection: deps.connection, keys: deps.keys, clock: this.#clock }, 1);
  }

  async beat(role: InstanceRole, instanceId: string, nowMs: number): Promise<void> {
    const key = this.#instancesKey(role);
    const now = (await this.#storeTime()).toStore(nowMs);
    await this.#send([
      ["zadd", key, now, instanceId],
      ["zremrangebyscore", key, "-inf", now - FORGET_INSTANCES_MS],
    ]);
  }

  async instances(role: InstanceRole, nowMs: number, ttlMs: number): Promise<readonly string[]> {
    const now = (await this.#storeTime()).toStore(nowMs);
    const [ids] = await this.#send([["zrangebyscore", this.#instancesKey(role), `(${now - ttlMs}`, `(${now + ttlMs}`]]);
    return (ids as string[]).sort();
  }

  async leave(role: InstanceRole, instanceId: string): Promise<void> {
    await this.#send([["zrem", this.#instancesKey(role), instanceId]]);
  }

  async acquire(endpoint: EndpointId, owner: string, ttlMs: number): Promise<Lease | null> {
    const fence = await this.#run("acquire", [this.#keys.lease(endpoint), this.#keys.meta(endpoint)], [owner, ttlMs]);
    if (typeof fence !== "string") return null;
    await this.#announce(endpoint);
    return { endpoint, owner, fence: Number(fence) };
  }

  async renew(lease: Lease, ttlMs: number): Promise<boolean> {
    // 0 would give the lease back.
    return this.#extend(lease, Math.max(1, ttlMs));
  }

  async release(lease: Lease): Promise<void> {
    await this.#extend(lease, 0);
  }

  async describe(lease: Lease, meta: Partial<EndpointMeta>, nowMs: number): Promise<boolean> {
    const outcome = await this.#run("describe", [this.#keys.meta(lease.endpoint)], [lease.fence, ...metaToFields(meta)]);
    if (outcome === 0) return false;
    const now = (await this.#storeTime()).toStore(nowMs);
    const beat: RedisCommand = ["zadd", this.#keys.endpoints, "CH", now, lease.endpoint];
    await this.#send(outcome === 2 ? [beat, ["publish", this.#keys.changes, lease.endpoint]] : [beat]);
    return true;
  }

  async startIncarnation(lease: Lease, from: number): Promise<number | null> {
    const { endpoint } = lease;
    for (let attempt = 0; attempt < MAX_INCARNATION_TRIES; attempt += 1) {
      const [next] = await this.#send([["incr", this.#keys.incarnations]]);
      const incarnation = Number(next);
      const before = Number(await this.#run("incarnate", [this.#keys.meta(endpoint)], [lease.fence, incarnation, from]));
      if (before === -1) return null;
      if (before === -2) {
        // The counter has been lost, and the endpoint's own number has not.
        const { incarnation: used } = await this.state(endpoint);
        await this.#run("remember", [this.#keys.incarnations], [used]);
        continue;
      }
      await this.#announce(endpoint);
      return incarnation;
    }
    throw new KvatlasError(
      "KVATLAS_REDIS_UNAVAILABLE",
      `${this.#keys.incarnations} stays below the incarnation of ${endpoint}, however often it is raised: is something else writing to it?`,
    );
  }

  async state(endpoint: EndpointId): Promise<EndpointState> {
    const [fields] = await this.#send([["hgetall", this.#keys.meta(endpoint)]]);
    return stateFromFields(hashOf(fields));
  }

  async remove(endpoint: EndpointId): Promise<void> {
    await this.#send([
      ["unlink", this.#keys.meta(endpoint), this.#keys.lease(endpoint)],
      ["zrem", this.#keys.endpoints, endpoint],
      ["hdel", this.#keys.load, endpoint],
      ["publish", this.#keys.changes, endpoint],
    ]);
  }

  async endpoints(): Promise<readonly EndpointRecord[]> {
    const time = await this.#storeTime();
    const [reply] = await this.#send([["zrange", this.#keys.endpoints, 0, -1, "WITHSCORES"]]);
    const scored = reply as string[];
    const beats: { readonly id: EndpointId; readonly heartbeat: number }[] = [];
    for (let i = 0; i < scored.length; i += 2) {
      beats.push({ id: scored[i] as EndpointId, heartbeat: time.toOwn(Number(scored[i + 1])) });
    }
    const metas = await this.#send(beats.map(({ id }) => ["hgetall", this.#keys.meta(id)]));
    const records = beats.flatMap(({ id, heartbeat }, i) => {
      const fields = hashOf(metas[i]);
      // Gone between the two reads.
      if (fields.fence === undefined) return [];
      return [{ id, heartbeat, meta: metaFromFields(fields), state: stateFromFields(fields) }];
    });
    return records.sort((left, right) => (left.id < right.id ? -1 : 1));
  }

  async ensureScope(scope: ScopeId, spec: ScopeSpec): Promise<number> {
    const shards = typeof this.#shards === "number" ? this.#shards : await this.#shards();
    const createdAt = new Date(this.#clock.now()).toISOString();
    const { text, isNew } = await this.#layouts.ensure(
      scope,
      shards,
      (found) => scopeFromText(found) !== null,
      (layout) => scopeToText(spec, layout, createdAt),
    );
    if (isNew) await this.#announce(scope);
    return scopeFromText(text)?.shards ?? shards;
  }

  async scopes(): Promise<ReadonlyMap<ScopeId, ScopeRecord>> {
    const scopes = new Map<ScopeId, ScopeRecord>();
    for (const { scope, version, text } of await this.#layouts.entries()) {
      const record = version === SCHEMA_VERSION ? scopeFromText(text) : null;
      if (record !== null) scopes.set(scope, record);
    }
    return scopes;
  }

  async setLoad(loads: ReadonlyMap<EndpointId, EndpointLoad>): Promise<void> {
    if (loads.size === 0) return;
    const time = await this.#storeTime();
    const fields = [...loads].flatMap(([endpoint, load]) => [endpoint, JSON.stringify({ ...load, at: time.toStore(load.at) })]);
    await this.#send([["hset", this.#keys.load, ...fields]]);
  }

  async setInflight(routerId: string, inflight: ReadonlyMap<EndpointId, Inflight>, ttlMs: number): Promise<void> {
    const key = this.#keys.inflight(routerId);
    const fields = [...inflight].flatMap(([endpoint, work]) => [endpoint, inflightToText(work)]);
    // One transaction, so that nobody reads the moment in between.
    await this.#send(
      fields.length === 0
        ? [["del", key]]
        : [["multi"], ["del", key], ["hset", key, ...fields], ["pexpire", key, Math.max(1, Math.ceil(ttlMs))], ["exec"]],
    );
  }

  async changeInflight(routerId: string, changed: ReadonlyMap<EndpointId, Inflight>, ttlMs: number): Promise<void> {
    if (changed.size === 0) return;
    const key = this.#keys.inflight(routerId);
    const fields = [...changed].flatMap(([endpoint, work]) => [endpoint, inflightToText(work)]);
    await this.#send([
      ["hset", key, ...fields],
      ["pexpire", key, Math.max(1, Math.ceil(ttlMs))],
    ]);
  }

  async readLoad(
    routerIds: readonly string[],
  ): Promise<{ readonly loads: ReadonlyMap<EndpointId, EndpointLoad>; readonly inflight: ReadonlyMap<EndpointId, Inflight> }> {
    const [loadFields, ...inflightFields] = await this.#send([
      ["hgetall", this.#keys.load],
      ...routerIds.map((id): RedisCommand => ["hgetall", this.#keys.inflight(id)]),
    ]);
    const loads = new Map<EndpointId, EndpointLoad>();
    for (const [endpoint, text] of Object.entries(hashOf(loadFields))) {
      const load = loadFromText(text);
      // Decisions wait for this one: it goes by what the last heartbeat has measured.
      if (load !== null) loads.set(endpoint as EndpointId, { ...load, at: this.#time.toOwn(load.at) });
    }
    return { loads, inflight: sumInflight(inflightFields.map((fields) => inflightFromFields(hashOf(fields)))) };
  }

  onChange(listener: () => void): () => void {
    const unsubscribe = this.#connection.subscribe(this.#keys.changes, listener);
    const stop = () => {
      this.#stops.delete(stop);
      unsubscribe();
    };
    this.#stops.add(stop);
    return stop;
  }

  async close(): Promise<void> {
    for (const stop of [...this.#stops]) stop();
  }

  /** Asks Redis what time it is, now and then. In a cluster one server is asked, which may be away while others are not: nobody waits for it for long. */
  async #storeTime(): Promise<StoreTime> {
    if (this.#time.isFresh) return this.#time;
    this.#measuring ??= this.#time
      .measure(async () => {
        const [reply] = await this.#connection.send([["time"]]);
        const [seconds, micros] = Array.isArray(reply) ? reply.map(Number) : [];
        return seconds === undefined || micros === undefined ? null : seconds * 1_000 + Math.floor(micros / 1_000);
      })
      // Whoever asked has calls of its own to make, which say so.
      .catch(() => {})
      .finally(() => {
        this.#measuring = null;
      });
    if (!this.#time.isKnown) await Promise.race([this.#measuring, sleep(FIRST_TIME_MS, undefined, { ref: false })]);
    return this.#time;
  }

  #instancesKey(role: InstanceRole): string {
    return role === "ingester" ? this.#keys.ingesters : this.#keys.routers;
  }

  async #extend({ endpoint, owner, fence }: Lease, ttlMs: number): Promise<boolean> {
    return (await this.#run("renew", [this.#keys.lease(endpoint), this.#keys.meta(endpoint)], [owner, fence, ttlMs])) === 1;
  }

  async #announce(what: EndpointId | ScopeId): Promise<void> {
    await this.#send([["publish", this.#keys.changes, what]]);
  }

  async #run(
    script: "acquire" | "renew" | "describe" | "incarnate" | "remember",
    keys: string[],
    args: (string | number)[],
  ): Promise<RedisReply> {
    const [reply] = await runScript(this.#connection, this.#scripts[script], [{ keys, args }]);
    return reply;
  }

  async #send(commands: readonly RedisCommand[]): Promise<readonly RedisReply[]> {
    const replies = await this.#connection.send(commands);
    for (const reply of replies) if (reply instanceof Error) throw redisError(reply);
    return replies;
  }
}

function hashOf(reply: RedisReply): Readonly<Record<string, string>> {
  return typeof reply === "object" && reply !== null ? (reply as Record<string, string>) : {};
}
