import { createHash } from "node:crypto";
import { setTimeout as delay } from "node:timers/promises";
import type { Cluster, Redis } from "ioredis";
import { KvatlasError } from "./errors.ts";
import type { Logger } from "./logger.ts";
import type { RedisCommand, RedisConnection, RedisLayout, RedisReply, RedisRole } from "./redis.ts";
import { createClusterClient, type RedisAccess } from "./redis-clients.ts";
import { cancelled, whenReady, withDeadline } from "./redis-deadline.ts";
import { redisError } from "./redis-error.ts";
import { reportConnection } from "./redis-report.ts";
import { type CommandUnit, type Redirection, redirectionIn, SLOTS, unitsOf } from "./redis-slots.ts";
import { serversOf } from "./redis-topology.ts";

export interface ClusterConnectionOptions {
  readonly role: RedisRole;
  readonly timeoutMs: number;
  readonly socketTimeoutMs: number;
  readonly connectTimeoutMs: number;
}

/** Nodes a command is sent on to before its error is the answer. A command that finds its slot has one; in the middle of a failover two or three. */
const MAX_REDIRECTIONS = 5;
const DISAGREEMENT_MS = 10;
/** Each asking for the slots takes a connection of its own. */
const REFRESH_EVERY_MS = 200;

/**
 * A connection to every primary of a cluster. What is sent in one go is split by node, so that it is still one round trip: each node answers its part of
 * the commands in order. Follows MOVED and ASK for single commands and transactions; learns the slots anew after either, and when a node is lost.
 */
export function createClusterConnection(access: RedisAccess, options: ClusterConnectionOptions, logger: Logger): RedisConnection {
  return new ClusterConnection(access, options, logger);
}

interface Sent {
  readonly unit: CommandUnit;
  readonly redirection: Redirection | null;
}

class ClusterConnection implements RedisConnection {
  readonly role: RedisRole;
  readonly #timeoutMs: number;
  readonly #servers: string;
  readonly #cluster: Cluster;
  readonly #listeners = new Map<string, Set<() => void>>();
  #refreshedAt = Number.NEGATIVE_INFINITY;
  #isClosed = false;

  constructor(access: RedisAccess, { role, timeoutMs, socketTimeoutMs, connectTimeoutMs }: ClusterConnectionOptions, logger: Logger) {
    this.role = role;
    this.#timeoutMs = timeoutMs;
    this.#servers = serversOf(access);
    this.#cluster = createClusterClient(access, {
      connectionName: `kvatlas-${role}`,
      connectTimeout: connectTimeoutMs,
      socketTimeout: socketTimeoutMs,
      autoResendUnfulfilledCommands: false,
      maxRetriesPerRequest: 0,
    });
    const log = logger.child({ component: "redis", role });
    reportConnection(this.#cluster, log, role, this.#servers);
    // Errors of single nodes: lost nodes are met again by whoever needs them.
    this.#cluster.on("node error", () => this.#refresh());
    this.#cluster.on("-node", () => this.#refresh());
    // Otherwise the first command to each node pays for the connection.
    this.#cluster.on("+node", (node: Redis) => {
      if (node.status === "wait") node.connect().catch(() => {});
    });
    this.#cluster.on("message", (channel: string) => {
      for (const listener of this.#listeners.get(channel) ?? []) listener();
    });
  }

  async send(commands: readonly RedisCommand[], signal?: AbortSignal): Promise<readonly RedisReply[]> {
    if (commands.length === 0) return [];
    const remainingMs = await this.#whenReady(signal);
    return withDeadline(this.#sendUnits(commands), remainingMs, signal);
  }

  async sendTo(node: string, commands: readonly RedisCommand[], signal?: AbortSignal): Promise<readonly RedisReply[]> {
    if (commands.length === 0) return [];
    const remainingMs = await this.#whenReady(signal);
    const all = commands.map((_, i): Sent => ({ unit: { from: i, to: i + 1, slot: null }, redirection: null }));
    const replies = new Array<RedisReply>(commands.length);
    await withDeadline(this.#sendToNode(node, commands, all, replies), remainingMs, signal);
    return replies;
  }

  async layout(): Promise<RedisLayout> {
    await this.#whenReady(undefined);
    const { slots } = this.#cluster;
    const hash = createHash("sha1");
    const nodes = new Set<string>();
    let before: string | undefined;
    for (let slot = 0; slot < SLOTS; slot += 1) {
      const owner = slots[slot]?.[0];
      if (owner !== undefined) nodes.add(owner);
      if (owner !== before) hash.update(`${slot}@${owner ?? ""} `);
      before = owner;
    }
    return { nodes: [...nodes].sort(), version: hash.digest("hex").slice(0, 8) };
  }

  subscribe(channel: string, listener: () => void): () => void {
    const listeners = this.#listeners.get(channel) ?? new Set();
    if (listeners.size === 0) {
      this.#listeners.set(channel, listeners);
      // Every node hears what any of them is told. Repeated by the client whenever it changes the node it listens to.
      this.#cluster.subscribe(channel).catch(() => {});
    }
    listeners.add(listener);
    return () => {
      listeners.delete(listener);
      if (listeners.size > 0 || this.#listeners.get(channel) !== listeners) return;
      this.#listeners.delete(channel);
      this.#cluster.unsubscribe(channel).catch(() => {});
    };
  }

  async connected(timeoutMs: number): Promise<boolean> {
    return this.#cluster.status === "ready" || (await whenReady(this.#cluster, timeoutMs));
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    this.#listeners.clear();
    this.#cluster.disconnect();
  }

  /** Milliseconds that are left for the answer. */
  async #whenReady(signal: AbortSignal | undefined): Promise<number> {
    if (signal?.aborted) throw cancelled(signal);
    if (this.#isClosed) throw this.#notConnected();
    if (this.#cluster.status === "ready") return this.#timeoutMs;
    if (this.role === "request") throw this.#notConnected();
    const startedAt = performance.now();
    if (!(await whenReady(this.#cluster, this.#timeoutMs, signal))) throw signal?.aborted ? cancelled(signal) : this.#notConnected();
    return Math.max(1, this.#timeoutMs - (performance.now() - startedAt));
  }

  async #sendUnits(commands: readonly RedisCommand[]): Promise<readonly RedisReply[]> {
    const replies = new Array<RedisReply>(commands.length);
    let pending: Sent[] = unitsOf(commands).map((unit) => ({ unit, redirection: null }));
    for (let hop = 0; pending.length > 0; hop += 1) {
      const byNode = new Map<string, Sent[]>();
      for (const sent of pending) {
        const node = sent.redirection?.node ?? this.#ownerOf(sent.unit.slot);
        const list = byNode.get(node);
        if (list === undefined) byNode.set(node, [sent]);
        else list.push(sent);
      }
      await allOf([...byNode].map(([node, list]) => this.#sendToNode(node, commands, list, replies)));
      if (hop === MAX_REDIRECTIONS) break;
      const moved: Sent[] = [];
      for (const { unit } of pending) {
        const redirection = redirectionOf(replies, unit);
        if (redirection === null) continue;
        moved.push({ unit, redirection });
        if (!redirection.isAsk) {
          if (unit.slot !== null) this.#cluster.slots[unit.slot] = [redirection.node];
          this.#refresh();
        }
      }
      pending = moved;
      // Sent on a second time: nodes that do not agree yet send it to and fro.
      if (hop > 0 && pending.length > 0) await delay(DISAGREEMENT_MS * 2 ** hop);
    }
    return replies;
  }

  /** Sends units to one node and puts the answers where they belong. */
  async #sendToNode(name: string, commands: readonly RedisCommand[], list: readonly Sent[], replies: RedisReply[]): Promise<void> {
    const node = this.#cluster.nodes("all").find(({ options }) => `${options.host}:${options.port}` === name);
    if (node === undefined) {
      this.#refresh();
      throw new KvatlasError(
        "KVATLAS_REDIS_UNAVAILABLE",
        `Not connected to ${name} of the Redis Cluster; looking for it in the background.`,
      );
    }
    const pipeline = node.pipeline();
    const places: (number | null)[] = [];
    for (const { unit, redirection } of list) {
      if (redirection?.isAsk) {
        pipeline.call("asking");
        places.push(null);
      }
      for (let i = unit.from; i < unit.to; i += 1) {
        const [command, ...args] = commands[i] ?? ["ping"];
        pipeline.call(command, args);
        places.push(i);
      }
    }
    const results = await pipeline.exec();
    if (results === null) throw this.#notConnected();
    for (const [n, [error, value]] of results.entries()) {
      const place = places[n];
      if (error !== null && error.name !== "ReplyError") {
        this.#refresh();
        throw redisError(error);
      }
      if (place !== null && place !== undefined) replies[place] = error ?? value;
    }
    // A primary of before that has become a replica, or a cluster without all its slots.
    if (results.some(([error]) => error !== null && /^(READONLY|CLUSTERDOWN)/.test(error.message))) this.#refresh();
  }

  #ownerOf(slot: number | null): string {
    const { slots } = this.#cluster;
    const owner = slot === null ? slots.find((nodes) => nodes?.[0] !== undefined)?.[0] : slots[slot]?.[0];
    if (owner !== undefined) return owner;
    this.#refresh();
    throw new KvatlasError("KVATLAS_REDIS_UNAVAILABLE", "Redis Cluster has slots that nobody serves; looking again in the background.");
  }

  #refresh(): void {
    const now = performance.now();
    if (this.#isClosed || now - this.#refreshedAt < REFRESH_EVERY_MS) return;
    this.#refreshedAt = now;
    this.#cluster.refreshSlotsCache(() => {});
  }

  #notConnected(): KvatlasError {
    return new KvatlasError(
      "KVATLAS_REDIS_UNAVAILABLE",
      this.#isClosed
        ? "The connection to Redis has been closed."
        : `Not connected to Redis at ${this.#servers}; trying again in the background.`,
    );
  }
}

/** Where the first command of a unit that was sent away was sent to. */
function redirectionOf(replies: readonly RedisReply[], unit: CommandUnit): Redirection | null {
  for (let i = unit.from; i < unit.to; i += 1) {
    const redirection = redirectionIn(replies[i]);
    if (redirection !== null) return redirection;
  }
  return null;
}

/** Waits for all, also when one rejects: nothing of a call is under way once it is over. */
async function allOf(calls: readonly Promise<void>[]): Promise<void> {
  for (const outcome of await Promise.allSettled(calls)) if (outcome.status === "rejected") throw outcome.reason;
}
