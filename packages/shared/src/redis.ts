import { Redis } from "ioredis";
import type { RedisConfig } from "./config/schema.ts";
import { KvatlasError } from "./errors.ts";
import type { Logger } from "./logger.ts";
import { redisError } from "./redis-error.ts";

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

/** One connection to Redis, shared by everything in a process that has the same role. */
export interface RedisConnection {
  readonly role: RedisRole;
  /**
   * Sends commands in one go and gives their answers in order, errors that Redis answered with among them (see `redisError`).
   *
   * @throws KVATLAS_REDIS_UNAVAILABLE not connected, connection lost or time-out: the commands may or may not have run.
   * @throws KVATLAS_DEADLINE_EXCEEDED the signal fired first; likewise.
   */
  send(commands: readonly RedisCommand[], signal?: AbortSignal): Promise<readonly RedisReply[]>;
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
const LOG_EVERY_MS = 10_000;

/** Never rejects and does not wait: a Redis that cannot be reached is logged, and tried again. */
export function createRedisConnection(
  config: Pick<RedisConfig, "url" | "commandTimeoutMs">,
  role: RedisRole,
  logger: Logger,
): RedisConnection {
  if (config.url === null) {
    throw new KvatlasError(
      "KVATLAS_CONFIG_INVALID",
      "redis.url is null: there is no Redis to connect to. Set redis.url, or use the memory backend.",
    );
  }
  return new IoredisConnection(config.url, config.commandTimeoutMs, role, logger);
}

class IoredisConnection implements RedisConnection {
  readonly role: RedisRole;
  readonly #url: string;
  readonly #timeoutMs: number;
  readonly #logger: Logger;
  readonly #client: Redis;
  readonly #listeners = new Map<string, Set<() => void>>();
  #subscriber: Redis | null = null;
  #isClosed = false;

  constructor(url: string, commandTimeoutMs: number, role: RedisRole, logger: Logger) {
    this.role = role;
    this.#url = url;
    this.#timeoutMs = role === "request" ? commandTimeoutMs : BACKGROUND_TIMEOUT_MS;
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
      if (!(await this.#ready(this.#timeoutMs, signal))) throw signal?.aborted ? cancelled(signal) : this.#notConnected();
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
    return this.#client.status === "ready" || (await this.#ready(timeoutMs));
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    this.#listeners.clear();
    this.#subscriber?.disconnect();
    this.#client.disconnect();
  }

  #connect(name: string): Redis {
    const client = new Redis(this.#url, {
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
    this.#report(client, name);
    return client;
  }

  #connectSubscriber(): Redis {
    const subscriber = this.#connect("subscriber");
    subscriber.on("message", (channel: string) => {
      for (const listener of this.#listeners.get(channel) ?? []) listener();
    });
    return subscriber;
  }

  /** Says once when the connection is lost and why, again while it stays so, and when it is back. */
  #report(client: Redis, name: string): void {
    let lastLog = Number.NEGATIVE_INFINITY;
    let isLost = false;
    client.on("error", (error: Error) => {
      isLost = true;
      const now = performance.now();
      if (now - lastLog < LOG_EVERY_MS) return;
      lastLog = now;
      this.#logger.warn({ connection: name, server: serverOf(this.#url), reason: error.message }, "redis cannot be reached; trying again");
    });
    client.on("ready", () => {
      this.#logger.info({ connection: name, server: serverOf(this.#url) }, isLost ? "redis is back" : "connected to redis");
      isLost = false;
      lastLog = Number.NEGATIVE_INFINITY;
    });
  }

  #ready(timeoutMs: number, signal?: AbortSignal): Promise<boolean> {
    return new Promise((resolve) => {
      const settle = (isReady: boolean) => {
        clearTimeout(timer);
        this.#client.off("ready", onReady);
        this.#client.off("end", onEnd);
        signal?.removeEventListener("abort", onEnd);
        resolve(isReady);
      };
      const onReady = () => settle(true);
      const onEnd = () => settle(false);
      const timer = setTimeout(onEnd, timeoutMs);
      this.#client.on("ready", onReady);
      this.#client.on("end", onEnd);
      signal?.addEventListener("abort", onEnd);
    });
  }

  #notConnected(): KvatlasError {
    return new KvatlasError(
      "KVATLAS_REDIS_UNAVAILABLE",
      this.#isClosed
        ? "The connection to Redis has been closed."
        : `Not connected to Redis at ${serverOf(this.#url)}; trying again in the background.`,
    );
  }
}

function withDeadline<T>(promise: Promise<T>, timeoutMs: number, signal: AbortSignal | undefined): Promise<T> {
  return new Promise((resolve, reject) => {
    const onAbort = () => settle(() => reject(signal === undefined ? null : cancelled(signal)));
    const onTimeout = () =>
      settle(() => reject(new KvatlasError("KVATLAS_REDIS_UNAVAILABLE", `Redis did not answer within ${Math.round(timeoutMs)} ms.`)));
    const timer = setTimeout(onTimeout, timeoutMs);
    signal?.addEventListener("abort", onAbort);
    const settle = (outcome: () => void) => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", onAbort);
      outcome();
    };
    promise.then(
      (value) => settle(() => resolve(value)),
      (error) => settle(() => reject(redisError(error))),
    );
  });
}

function cancelled(signal: AbortSignal): KvatlasError {
  return new KvatlasError("KVATLAS_DEADLINE_EXCEEDED", "The call was cancelled before Redis answered.", { cause: signal.reason });
}

/** Host and port of a URL, without user and password. */
function serverOf(url: string): string {
  try {
    return new URL(url).host;
  } catch {
    return "(unreadable redis.url)";
  }
}
