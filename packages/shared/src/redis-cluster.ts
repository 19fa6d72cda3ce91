import { createHash } from "node:crypto";
import { setTimeout as delay } from "node:timers/promises";
import type { Cluster, Redis } from "ioredis";
import { KvatlasError } from "./errors.ts";
import type { Logger } from "./logger.ts";
import type { RedisCommand, RedisConnection, RedisLayout, RedisReply, RedisRole } from "./redis.ts";
import { ChannelListeners } from "./redis-channels.ts";
import { createClusterClient, type RedisAccess } from "./redis-clients.ts";
import { withDeadline } from "./redis-deadline.ts";
import { type RedisErrorCode, redisError } from "./redis-error.ts";
import { RedisGate } from "./redis-gate.ts";
import { reportConnection } from "./redis-report.ts";
import { type CommandUnit, type Redirection, redirectionIn, SLOTS, unitsOf } from "./redis-slots.ts";
import { serversOf } from "./redis-topology.ts";

export interface ClusterConnectionOptions {
  readonly role: RedisRole;
  readonly timeoutMs: number;
  readonly socketTimeoutMs: number;
  readonly connectTimeoutMs: number;
  /** Hears of redirections and of connections that fail. */
  readonly onError: (code: RedisErrorCode) => void;
}

/** Nodes a command is sent on to before its error is the answer. A command that finds its slot has one; in the middle of a failover two or three. */
const MAX_REDIRECTIONS = 5;
const DISAGREEMENT_MS = 10;
/** Each asking for the slots takes a connection of its own. */
const REFRESH_EVERY_MS = 200;
/** Between two looks whether a node that was lost, or its successor, is connected. */
const LOOK_AGAIN_MS = 25;

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

/** What goes to one node. */
interface Part {
  readonly node: Redis;
  readonly list: readonly Sent[];
}

/** Of one call: nothing is sent after its end, when its caller has long been told that it failed. */
interface Life {
  /** Monotonic ms. */
  readonly endsAt: number;
  readonly signal: AbortSignal | undefined;
}

class ClusterConnection implements RedisConnection {
  readonly role: RedisRole;
  readonly #onError: (code: RedisErrorCode) => void;
  readonly #cluster: Cluster;
  readonly #gate: RedisGate;
  readonly #channels: ChannelListeners;
  #refreshedAt = Number.NEGATIVE_INFINITY;

  constructor(access: RedisAccess, options: ClusterConnectionOptions, logger: Logger) {
    const { role, timeoutMs, socketTimeoutMs, connectTimeoutMs, onError } = options;
    const servers = serversOf(access);
    this.role = role;
    this.#onError = onError;
    this.#cluster = createClusterClient(access, {
      connectionName: `kvatlas-${role}`,
      connectTimeout: connectTimeoutMs,
      socketTimeout: socketTimeoutMs,
      autoResendUnfulfilledCommands: false,
      maxRetriesPerRequest: 0,
    });
    this.#gate = new RedisGate(this.#cluster, { role, timeoutMs, servers });
    reportConnection(this.#cluster, logger.child({ component: "redis", role }), { connection: role, server: servers, onError });
    // Errors of single nodes: lost nodes are met again by whoever needs them.
    this.#cluster.on("node error", () => this.#refresh());
    this.#cluster.on("-node", () => this.#refresh());
    // Otherwise the first command to each node pays for the connection.
    this.#cluster.on("+node", connectNow);
    // Every node hears what any of them is told; the client changes the node it listens to by itself.
    this.#channels = new ChannelListeners(() => this.#cluster);
  }

  async send(commands: readonly RedisCommand[], signal?: AbortSignal): Promise<readonly RedisReply[]> {
    if (commands.length === 0) return [];
    const remainingMs = await this.#gate.pass(signal);
    const life = { endsAt: performance.now() + remainingMs, signal };
    return withDeadline(this.#sendUnits(commands, life), remainingMs, signal);
  }

  async sendTo(node: string, commands: readonly RedisCommand[], signal?: AbortSignal): Promise<readonly RedisReply[]> {
    if (commands.length === 0) return [];
    const remainingMs = await this.#gate.pass(signal);
    const all = commands.map((_, i): Sent => ({ unit: { from: i, to: i + 1, slot: null }, redirection: { node, isAsk: false } }));
    const replies = new Array<RedisReply>(commands.length);
    const life = { endsAt: performance.now() + remainingMs, signal };
    const sending = this.#byNode(all, life).then(([first]) =>
      first === undefined ? undefined : this.#sendToNode(first, commands, replies),
    );
    await withDeadline(sending, remainingMs, signal);
    return replies;
  }

  async layout(): Promise<RedisLayout> {
    await this.#gate.pass(undefined);
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
    return this.#channels.add(channel, listener);
  }

  connected(timeoutMs: number): Promise<boolean> {
    return this.#gate.connected(timeoutMs);
  }

  async close(): Promise<void> {
    this.#gate.close();
    this.#channels.clear();
    this.#cluster.disconnect();
  }

  async #sendUnits(commands: readonly RedisCommand[], life: Life): Promise<readonly RedisReply[]> {
    const replies = new Array<RedisReply>(commands.length);
    let pending: Sent[] = unitsOf(commands).map((unit) => ({ unit, redirection: null }));
    for (let hop = 0; pending.length > 0; hop += 1) {
      const parts = await this.#byNode(pending, life);
      await allOf(parts.map((part) => this.#sendToNode(part, commands, replies)));
      if (hop === MAX_REDIRECTIONS) break;
      const moved: Sent[] = [];
      for (const { unit } of pending) {
        const redirection = redirectionOf(replies, unit);
        if (redirection === null) continue;
        moved.push({ unit, redirection });
        this.#onError(redirection.isAsk ? "ASK" : "MOVED");
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

  /**
   * What goes to which node. In the background all of them are waited for until they are connected, the successor of a dead one included, before
   * anything is sent; a request has no time for that.
   */
  async #byNode(pending: readonly Sent[], { endsAt, signal }: Life): Promise<readonly Part[]> {
    for (;;) {
      const { parts, missing } = this.#connectedParts(pending);
      if (missing === null) return parts;
      this.#refresh();
      const isOver = this.#gate.isClosed || signal?.aborted === true || performance.now() + LOOK_AGAIN_MS >= endsAt;
      if (this.role === "request" || isOver) {
        if (this.#gate.isClosed) throw this.#gate.notConnected();
        throw new KvatlasError("KVATLAS_REDIS_UNAVAILABLE", missing);
      }
      await delay(LOOK_AGAIN_MS);
    }
  }

  #connectedParts(pending: readonly Sent[]): { readonly parts: readonly Part[]; readonly missing: string | null } {
    const parts = new Map<string, { readonly node: Redis; readonly list: Sent[] }>();
    for (const sent of pending) {
      const name = sent.redirection?.node ?? this.#ownerOf(sent.unit.slot);
      if (name === null) return { parts: [], missing: "Redis Cluster has slots that nobody serves; looking again in the background." };
      const part = parts.get(name);
      if (part !== undefined) {
        part.list.push(sent);
        continue;
      }
      const node = this.#cluster.nodes("all").find(({ options }) => `${options.host}:${options.port}` === name);
      // What connects for the first time keeps what it is sent until it is connected: a request need not fail for that.
      if (node === undefined || (node.status !== "ready" && this.role !== "request")) {
        if (node !== undefined) connectNow(node);
        return { parts: [], missing: `Not connected to ${name} of the Redis Cluster; looking for it in the background.` };
      }
      parts.set(name, { node, list: [sent] });
    }
    return { parts: [...parts.values()], missing: null };
  }

  /** Sends units to one node and puts the answers where they belong. */
  async #sendToNode({ node, list }: Part, commands: readonly RedisCommand[], replies: RedisReply[]): Promise<void> {
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
    if (results === null) throw this.#gate.notConnected();
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

  #ownerOf(slot: number | null): string | null {
    const { slots } = this.#cluster;
    return (slot === null ? slots.find((nodes) => nodes?.[0] !== undefined)?.[0] : slots[slot]?.[0]) ?? null;
  }

  #refresh(): void {
    const now = performance.now();
    if (this.#gate.isClosed || now - this.#refreshedAt < REFRESH_EVERY_MS) return;
    this.#refreshedAt = now;
    this.#cluster.refreshSlotsCache(() => {});
  }
}

/** Nodes connect when they are first used otherwise. */
function connectNow(node: Redis): void {
  if (node.status === "wait") node.connect().catch(() => {});
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
