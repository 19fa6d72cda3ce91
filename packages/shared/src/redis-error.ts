import { KvatlasError } from "./errors.ts";

/** What a Redis says when it cannot serve now but may later, and what that means to a person. */
const temporary: readonly (readonly [prefix: string, meaning: string])[] = [
  ["LOADING", "Redis is loading its data set"],
  ["READONLY", "Redis is a replica or is failing over, and refuses writes"],
  ["OOM", "Redis has reached maxmemory and refuses writes: raise maxmemory, or lower the number of blocks it must hold"],
  ["BUSY", "Redis is busy running a script"],
  ["MASTERDOWN", "Redis is a replica that has lost its master"],
  ["CLUSTERDOWN", "Redis Cluster has slots that nobody serves"],
  ["TRYAGAIN", "Redis Cluster is moving the keys"],
  ["NOREPLICAS", "Redis has too few replicas to accept writes"],
  ["MISCONF", "Redis cannot persist and refuses writes: see its log"],
];

const unsuitable: readonly (readonly [prefix: string, meaning: string])[] = [
  ["NOAUTH", "Redis asks for a password: put it into redis.url"],
  ["WRONGPASS", "Redis refuses the user or password in redis.url"],
  ["NOPERM", "the Redis user lacks a permission: docs/redis-schema.md lists the commands and keys it needs"],
  ["WRONGTYPE", "a key has another type than the schema says: give kvatlas a redis.keyPrefix of its own"],
  ["ERR unknown command", "Redis lacks a command: 6.2 or later is needed"],
];

/** True for the answer of a Redis that does not know a script (restarted, failed over, flushed). */
export function isUnknownScript(error: unknown): boolean {
  return error instanceof Error && error.message.startsWith("NOSCRIPT");
}

/**
 * The error of a Redis client or server in our terms: KVATLAS_REDIS_UNAVAILABLE for everything that may pass (connection lost, time-out,
 * loading, failing over, out of memory), KVATLAS_REDIS_UNSUITABLE for what somebody must change.
 */
export function redisError(cause: unknown): KvatlasError {
  if (cause instanceof KvatlasError) return cause;
  const message = cause instanceof Error ? cause.message : String(cause);
  for (const [prefix, meaning] of temporary) {
    if (message.startsWith(prefix)) return new KvatlasError("KVATLAS_REDIS_UNAVAILABLE", `${meaning}. Got: ${message}`, { cause });
  }
  for (const [prefix, meaning] of unsuitable) {
    if (message.startsWith(prefix))
      return new KvatlasError("KVATLAS_REDIS_UNSUITABLE", `Cannot use this Redis: ${meaning}. Got: ${message}`, { cause });
  }
  return new KvatlasError("KVATLAS_REDIS_UNAVAILABLE", `Redis did not answer: ${message}`, { cause });
}
