import type { Redis } from "ioredis";
import type { RedisConfig } from "./config/schema.ts";
import { KvatlasError } from "./errors.ts";
import type { Logger } from "./logger.ts";
import { createServerClient, type RedisAccess } from "./redis-clients.ts";
import { createClusterConnection } from "./redis-cluster.ts";
import { cancelled, whenReady, withDeadline } from "./redis-deadline.ts";
import { redisError } from "./redis-error.ts";
import { reportConnection } from "./redis-report.ts";
import { redisTopology, serversOf } from "./redis-topology.ts";

/**
 * How a connection behaves when Redis is not there.
 *
 * - `request`: on the path of a request. Fails at once while disconnected, and when an answer takes longer than `redis.commandTimeoutMs`.
 * - `background`: ingest and housekeeping. Waits for the connection, and for an answer, up to {@link BACKGROUND_TIMEOUT_MS}.
 *
 * Both reconnect for ever, and neither repeats a command by itself: whoever sent it knows whether it may be.
 */
export type RedisRole = "request" | "background";

export type RedisCommand = readonly [name: string, ...args: (string | number)[]];

/** The answer to one command of a batch: a value, or the error Redis answered with. */
export type RedisReply = unknown;

/** The servers that hold the data: one, or the primaries of a cluster. */
export interface RedisLayout {
  /** `host:port`, sorted. */
  readonly nodes: readonly string[];
  /** Another one whenever other servers hold the data, or other parts of it. */
  readonly version: string;
}

/** One connection to Redis, shared by everything in a process that has the same role. In a cluster: to each of its primaries. */
export interface RedisConnection {
  readonly role: RedisRole;
  /**
   * Sends commands in one go and gives their answers in order, errors that Redis answered with among them (see `redisError`). In a cluster each
   * goes to the node of its first key, and only those of one slot run in order; keys of one command, or of one transaction, share a hash tag.
   *
   * @throws KVATLAS_REDIS_UNAVAILABLE not connected, connection lost or time-out: the commands may or may not have run.
   * @throws KVATLAS_DEADLINE_EXCEEDED the signal fired first; likewise.
   */
  send(commands: readonly RedisCommand[], signal?: AbortSignal): Promise<readonly RedisReply[]>;
  /** The servers that hold the data, as far as this connection knows. @throws KVATLAS_REDIS_UNAVAILABLE */
  layout(): Promise<RedisLayout>;
  /** Like `send`, to one server of `layout`: for what is said of a server, not of a key. */
  sendTo(node: string, commands: readonly RedisCommand[], signal?: AbortSignal): Promise<readonly RedisReply[]>;
  /** Calls back for every message of a channel, also after a reconnection. The second connection it takes is made on first use. */
  subscribe(channel: string, listener: () => void): () => void;
  /** True once Redis answers, false when it has not within `timeoutMs`. */
  connected(timeoutMs: number): Promise<boolean>;
  /** Lets go of the connection at once; what is under way rejects. Idempotent. */
  close(): Promise<void>;
}

/** Longest wait of a `background` command, the wait for a connection included. */
export const BACKGROUND_TIMEOUT_MS = 5_000;

/** A socket that has not answered anything for this long is replaced: half-open connections are silent. */
const SOCKET_TIMEOUT_MS = 10_000;
const CONNECT_TIMEOUT_MS = 5_000;
const MAX_RECONNECT_DELAY_MS = 1_000;

/**
 * Never rejects and does not wait: a Redis that cannot be reached is logged, and tried again.
 *
 * @throws KVATLAS_CONFIG_INVALID no Redis is configured, or a file of `tls` cannot be read.
 */
export function createRedisConnection(
  config: RedisAccess & Pick<RedisConfig, "commandTimeoutMs">,
  role: RedisRole,
  logger: Logger,
): RedisConnection {
  const timeoutMs = role === "request" ? config.commandTimeoutMs : BACKGROUND_TIMEOUT_MS;
  switch (redisTopology(config)) {
    case "none":
      throw new KvatlasError(
        "KVATLAS_CONFIG_INVALID",
        "No Redis is configured (redis.url, redis.cluster or redis.sentinel): there is none to connect to. Set one, or use the memory backend.",
      );
    case "cluster":
      return createClusterConnection(
        config,
        { role, timeoutMs, socketTimeoutMs: SOCKET_TIMEOUT_MS, connectTimeoutMs: CONNECT_TIMEOUT_MS },
        logger,
      );
    default:
      return new ServerConnection(config, timeoutMs, role, logger);
  }
}

/** To one server, or to the primary that Sentinels name. */
class ServerConnection implements RedisConnection {
  readonly role: RedisRole;
  readonly #access: RedisAccess;
  readonly #servers: string;
  readonly #timeoutMs: number;
  readonly #logger: Logger;
  readonly #client: Redis;
  readonly #listeners = new Map<string, Set<() => void>>();
  #subscriber: Redis | null = null;
  #isClosed = false;

  constructor(access: RedisAccess, timeoutMs: number, role: RedisRole, logger: Logger) {
    this.role = role;
    this.#access = access;
    this.#servers = serversOf(access);
    this.#timeoutMs = timeoutMs;
    this.#logger = logger.child({ component: "redis", role });
    this.#client = this.#connect(role);
  }

  async send(commands: readonly RedisCommand[], signal?: AbortSignal): Promise<readonly RedisReply[]> {
    if (commands.length === 0) return [];
    if (signal?.aborted) throw cancelled(signal);
    const startedAt = performance.now();
    if (this.#isClosed) throw this.#notConnected();
    if (this.#client.status !== "ready") {
      // Queued commands would outlive their callers, so the waiting is done here.
      if (this.role === "request") throw this.#notConnected();
      if (!(await whenReady(this.#client, this.#timeoutMs, signal))) throw signal?.aborted ? cancelled(signal) : this.#notConnected();
    }
    const pipeline = this.#client.pipeline();
    for (const [name, ...args] of commands) pipeline.call(name, args);
    const remainingMs = Math.max(1, this.#timeoutMs - (performance.now() - startedAt));
    const results = await withDeadline(pipeline.exec(), remainingMs, signal);
    if (results === null) throw this.#notConnected();
    return results.map(([error, value]) => {
      if (error === null) return value;
      // Answers of the server are the caller's business; all else means that there was none.
      if (error.name === "ReplyError") return error;
      throw redisError(error);
    });
  }

  sendTo(_node: string, commands: readonly RedisCommand[], signal?: AbortSignal): Promise<readonly RedisReply[]> {
    return this.send(commands, signal);
  }

  async layout(): Promise<RedisLayout> {
    // With Sentinel it is now this server, now that one.
    const { remotePort } = this.#client.stream ?? {};
    const isFixed = redisTopology(this.#access) === "single";
    return { nodes: [this.#servers], version: isFixed || remotePort === undefined ? "0" : String(remotePort) };
  }

  subscribe(channel: string, listener: () => void): () => void {
    this.#subscriber ??= this.#connectSubscriber();
    const listeners = this.#listeners.get(channel) ?? new Set();
    if (listeners.size === 0) {
      this.#listeners.set(channel, listeners);
      // Rejects when the connection closes for good; until then it is repeated with every reconnection.
      this.#subscriber.subscribe(channel).catch(() => {});
    }
    listeners.add(listener);
    return () => {
      listeners.delete(listener);
      if (listeners.size > 0 || this.#listeners.get(channel) !== listeners) return;
      this.#listeners.delete(channel);
      this.#subscriber?.unsubscribe(channel).catch(() => {});
    };
  }

  async connected(timeoutMs: number): Promise<boolean> {
    return this.#client.status === "ready" || (await whenReady(this.#client, timeoutMs));
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    this.#listeners.clear();
    this.#subscriber?.disconnect();
    this.#client.disconnect();
  }

  #connect(name: string): Redis {
    const client = createServerClient(this.#access, {
      connectionName: `kvatlas-${name}`,
      connectTimeout: CONNECT_TIMEOUT_MS,
      socketTimeout: SOCKET_TIMEOUT_MS,
      // Of the subscriber only: others check before they send.
      enableOfflineQueue: name === "subscriber",
      autoResendUnfulfilledCommands: false,
      maxRetriesPerRequest: name === "subscriber" ? null : 0,
      retryStrategy: (attempt) => Math.min(MAX_RECONNECT_DELAY_MS, 25 * 2 ** Math.min(attempt, 10)) * (0.5 + Math.random() / 2),
      reconnectOnError: (error) => (error.message.startsWith("READONLY") ? 1 : false),
    });
    reportConnection(client, this.#logger, name, this.#servers);
    return client;
  }

  #connectSubscriber(): Redis {
    const subscriber = this.#connect("subscriber");
    subscriber.on("message", (channel: string) => {
      for (const listener of this.#listeners.get(channel) ?? []) listener();
    });
    return subscriber;
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
