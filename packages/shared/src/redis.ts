import type { Redis } from "ioredis";
import type { RedisConfig } from "./config/schema.ts";
import { KvatlasError } from "./errors.ts";
import type { Logger } from "./logger.ts";
import { ChannelListeners } from "./redis-channels.ts";
import { createServerClient, type RedisAccess, reconnectDelay } from "./redis-clients.ts";
import { createClusterConnection } from "./redis-cluster.ts";
import { withDeadline } from "./redis-deadline.ts";
import { type RedisErrorCode, redisError } from "./redis-error.ts";
import { RedisGate } from "./redis-gate.ts";
import { observeConnection } from "./redis-observed.ts";
import { reportConnection } from "./redis-report.ts";
import { redisTopology, serversOf } from "./redis-topology.ts";
import { RedisTurn } from "./redis-turn.ts";

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

export interface RedisConnectionOptions {
  /** Hears of every answer that is an error, every call without an answer and every connection that fails. @defaultValue nobody */
  readonly onError?: (code: RedisErrorCode) => void;
}

/**
 * Never rejects and does not wait: a Redis that cannot be reached is logged, and tried again.
 *
 * @throws KVATLAS_CONFIG_INVALID no Redis is configured, or a file of `tls` cannot be read.
 */
export function createRedisConnection(
  config: RedisAccess & Pick<RedisConfig, "commandTimeoutMs">,
  role: RedisRole,
  logger: Logger,
  options: RedisConnectionOptions = {},
): RedisConnection {
  const timeoutMs = role === "request" ? config.commandTimeoutMs : BACKGROUND_TIMEOUT_MS;
  const onError = options.onError ?? (() => {});
  switch (redisTopology(config)) {
    case "none":
      throw new KvatlasError(
        "KVATLAS_CONFIG_INVALID",
        "No Redis is configured (redis.url, redis.cluster or redis.sentinel): there is none to connect to. Set one, or use the memory backend.",
      );
    case "cluster": {
      const times = { timeoutMs, socketTimeoutMs: SOCKET_TIMEOUT_MS, connectTimeoutMs: CONNECT_TIMEOUT_MS };
      return observeConnection(createClusterConnection(config, { role, ...times, onError }, logger), onError);
    }
    default:
      return observeConnection(new ServerConnection(config, timeoutMs, role, logger, onError), onError);
  }
}

/** To one server, or to the primary that Sentinels name. */
class ServerConnection implements RedisConnection {
  readonly role: RedisRole;
  readonly #access: RedisAccess;
  readonly #servers: string;
  readonly #logger: Logger;
  readonly #onError: (code: RedisErrorCode) => void;
  readonly #client: Redis;
  readonly #gate: RedisGate;
  readonly #turn: RedisTurn;
  readonly #channels: ChannelListeners;
  #subscriber: Redis | null = null;

  constructor(access: RedisAccess, timeoutMs: number, role: RedisRole, logger: Logger, onError: (code: RedisErrorCode) => void) {
    this.role = role;
    this.#access = access;
    this.#servers = serversOf(access);
    this.#logger = logger.child({ component: "redis", role });
    this.#onError = onError;
    this.#client = this.#connect(role);
    this.#gate = new RedisGate(this.#client, { role, timeoutMs, servers: this.#servers });
    this.#turn = new RedisTurn(this.#client);
    this.#channels = new ChannelListeners(() => {
      this.#subscriber = this.#connect("subscriber");
      return this.#subscriber;
    });
  }

  async send(commands: readonly RedisCommand[], signal?: AbortSignal): Promise<readonly RedisReply[]> {
    if (commands.length === 0) return [];
    const remainingMs = await this.#gate.pass(signal);
    const results = await withDeadline(this.#turn.send(commands), remainingMs, signal);
    if (results === null) throw this.#gate.notConnected();
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
    return this.#channels.add(channel, listener);
  }

  connected(timeoutMs: number): Promise<boolean> {
    return this.#gate.connected(timeoutMs);
  }

  async close(): Promise<void> {
    this.#gate.close();
    this.#channels.clear();
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
      retryStrategy: (attempt) => reconnectDelay(attempt),
      reconnectOnError: (error) => (error.message.startsWith("READONLY") ? 1 : false),
    });
    reportConnection(client, this.#logger, { connection: name, server: this.#servers, onError: this.#onError });
    return client;
  }
}
