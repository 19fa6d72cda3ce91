import { KvatlasError } from "./errors.ts";

/** What goes wrong with Redis, for metrics: the first word of its answer where that is known, else what kind of failure it was. */
export const redisErrorCodes = [
  "LOADING",
  "READONLY",
  "OOM",
  "BUSY",
  "MASTERDOWN",
  "CLUSTERDOWN",
  "TRYAGAIN",
  "NOREPLICAS",
  "MISCONF",
  "NOAUTH",
  "WRONGPASS",
  "NOPERM",
  "WRONGTYPE",
  "CROSSSLOT",
  "MOVED",
  "ASK",
  "NOSCRIPT",
  "EXECABORT",
  "ERR",
  /** No answer in time. */
  "timeout",
  /** No connection, or one that broke. */
  "unreachable",
] as const;

export type RedisErrorCode = (typeof redisErrorCodes)[number];

const known = new Set<string>(redisErrorCodes);

interface Meaning {
  /** True: Redis cannot serve now but may later; false: somebody must change something. */
  readonly passes: boolean;
  readonly text: string;
}

/** What the refusals of a Redis mean to a person. */
const meanings: Readonly<Partial<Record<RedisErrorCode, Meaning>>> = {
  LOADING: { passes: true, text: "Redis is loading its data set" },
  READONLY: { passes: true, text: "Redis is a replica or is failing over, and refuses writes" },
  OOM: {
    passes: true,
    text: "Redis has reached maxmemory and refuses writes: raise maxmemory, or lower the number of blocks it must hold",
  },
  BUSY: { passes: true, text: "Redis is busy running a script" },
  MASTERDOWN: { passes: true, text: "Redis is a replica that has lost its master" },
  CLUSTERDOWN: { passes: true, text: "Redis Cluster has slots that nobody serves" },
  TRYAGAIN: { passes: true, text: "Redis Cluster is moving the keys" },
  NOREPLICAS: { passes: true, text: "Redis has too few replicas to accept writes" },
  MISCONF: { passes: true, text: "Redis cannot persist and refuses writes: see its log" },
  NOAUTH: { passes: false, text: "Redis asks for a password: put it into redis.url or redis.password" },
  WRONGPASS: { passes: false, text: "Redis refuses the user or password of redis.url, redis.username, redis.password" },
  NOPERM: { passes: false, text: "the Redis user lacks a permission: docs/operations.md lists the commands and keys it needs" },
  WRONGTYPE: { passes: false, text: "a key has another type than the schema says: give kvatlas a redis.keyPrefix of its own" },
};

/** What a refusal means to a person; null for what is no refusal. */
export function meaningOf(code: RedisErrorCode): string | null {
  return meanings[code]?.text ?? null;
}

/** The code of an error that a Redis client or server has given, also when it has been put into our terms. */
export function redisErrorCode(error: unknown): RedisErrorCode {
  const cause = error instanceof KvatlasError && error.cause !== undefined ? error.cause : error;
  const message = cause instanceof Error ? cause.message : String(cause);
  const word = innerErrorOf(message).split(" ", 1)[0] ?? "";
  if (known.has(word)) return word as RedisErrorCode;
  if (cause instanceof Error && cause.name === "ReplyError") return "ERR";
  return /did not answer within|timed? ?out/i.test(message) ? "timeout" : "unreachable";
}

/**
 * Redis before 7 says in the words of the script that a command in it has failed: `ERR Error running script (...): ... -OOM command not allowed`, and
 * `-OOM command not allowed` where the script has caught it and answers with it.
 * Redis 7 and Valkey say in words of their own that a command in a script is not permitted.
 */
function innerErrorOf(message: string): string {
  if (/^ERR (The user executing the script can't|ACL failure in script)/.test(message)) return `NOPERM ${message}`;
  return /^(?:ERR Error running script .*? )?-?([A-Z]{2,} .*)$/s.exec(message)?.[1] ?? message;
}

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
  const meaning = meanings[redisErrorCode(cause)];
  if (meaning?.passes === true) return new KvatlasError("KVATLAS_REDIS_UNAVAILABLE", `${meaning.text}. Got: ${message}`, { cause });
  const unsuitable = meaning?.text ?? (message.startsWith("ERR unknown command") ? "Redis lacks a command: 6.2 or later is needed" : null);
  if (unsuitable !== null)
    return new KvatlasError("KVATLAS_REDIS_UNSUITABLE", `Cannot use this Redis: ${unsuitable}. Got: ${message}`, { cause });
  return new KvatlasError("KVATLAS_REDIS_UNAVAILABLE", `Redis did not answer: ${message}`, { cause });
}
