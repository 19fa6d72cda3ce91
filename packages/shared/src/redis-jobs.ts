import type { Cluster, Redis } from "ioredis";
import type { RedisConfig } from "./config/schema.ts";
import { KvatlasError } from "./errors.ts";
import type { Logger } from "./logger.ts";
import { type ClientOptions, createClusterClient, createServerClient, type RedisAccess, reconnectDelay } from "./redis-clients.ts";
import { redisTopology } from "./redis-topology.ts";

/** A connection for a job queue, and the prefix of the queue's keys. */
export interface JobsConnection {
  /** A client of ioredis; what the queue duplicates from it (for blocking reads) the queue closes itself. */
  readonly client: Redis | Cluster;
  /** Begins all keys of the queue. Has a hash tag, so that they lie in one slot of a cluster. */
  readonly prefix: string;
  /** At once. */
  close(): void;
}

const MAX_RECONNECT_DELAY_MS = 2_000;
const LOG_EVERY_MS = 10_000;

/**
 * The job queue's own connection: it waits for Redis for ever and repeats what was under way, as queues want it (every command of theirs may be repeated).
 *
 * @throws KVATLAS_CONFIG_INVALID no Redis is configured.
 */
export function createJobsConnection(config: RedisAccess & Pick<RedisConfig, "keyPrefix">, logger: Logger): JobsConnection {
  const topology = redisTopology(config);
  if (topology === "none")
    throw new KvatlasError(
      "KVATLAS_CONFIG_INVALID",
      "No Redis is configured, and jobs need one. Set redis.url, redis.cluster or redis.sentinel.",
    );
  const options: ClientOptions = {
    connectionName: "kvatlas-jobs",
    maxRetriesPerRequest: null,
    retryStrategy: (attempt) => reconnectDelay(attempt, MAX_RECONNECT_DELAY_MS),
    reconnectOnError: (error) => (error.message.startsWith("READONLY") ? 2 : false),
  };
  const client: Redis | Cluster = topology === "cluster" ? createClusterClient(config, options) : createServerClient(config, options);
  let lastLog = Number.NEGATIVE_INFINITY;
  client.on("error", (error: Error) => {
    const now = performance.now();
    if (now - lastLog < LOG_EVERY_MS) return;
    lastLog = now;
    logger.warn({ connection: "jobs", reason: error.message }, "redis cannot be reached; trying again");
  });
  return { client, prefix: `bull:{${config.keyPrefix}}`, close: () => client.disconnect() };
}
