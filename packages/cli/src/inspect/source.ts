import type { Backend } from "@kvatlas/shared/backend";
import type { KvatlasConfig } from "@kvatlas/shared/config/schema";
import { KvatlasError } from "@kvatlas/shared/errors";
import { createRedisKeys, type RedisKeys } from "@kvatlas/shared/index/redis-keys";
import type { Logger } from "@kvatlas/shared/logger";
import { createBackends } from "../backends.ts";
import { redisCliLine } from "../redis-cli.ts";
import { requireRedis } from "../services.ts";

/** Read-only access to what the services keep in Redis. */
export interface InspectSource {
  readonly index: Backend["index"];
  readonly registry: Backend["registry"];
  readonly housekeeping: Backend["housekeeping"];
  readonly quality: Backend["quality"];
  readonly pools: Backend["pools"];
  readonly config: KvatlasConfig;
  readonly keys: RedisKeys;
  /** The command line that shows the same with redis-cli. */
  redisCli(...args: readonly string[]): string;
  readonly nowMs: number;
}

/** A person is waiting. */
const connectTimeoutMs = 5_000;

/**
 * Runs `read` once Redis answers; every command has a time-out of its own.
 *
 * @throws KVATLAS_CONFIG_INVALID without `redis.url`: an index in memory is visible only inside its process.
 * @throws KVATLAS_REDIS_UNAVAILABLE
 */
export async function withSource<T>(config: KvatlasConfig, logger: Logger, read: (source: InspectSource) => Promise<T>): Promise<T> {
  requireRedis(config, "inspect");
  const backends = createBackends(config.redis, logger);
  try {
    const backend = backends.open("background");
    if (!(await backend.connected(connectTimeoutMs))) {
      const where = redisCliLine(config.redis, "PING");
      throw new KvatlasError("KVATLAS_REDIS_UNAVAILABLE", `Redis has not answered for ${connectTimeoutMs / 1_000} s. Try: ${where}`);
    }
    return await read({
      index: backend.index,
      registry: backend.registry,
      housekeeping: backend.housekeeping,
      quality: backend.quality,
      pools: backend.pools,
      config,
      keys: createRedisKeys(config.redis.keyPrefix),
      redisCli: (...args) => redisCliLine(config.redis, ...args),
      nowMs: Date.now(),
    });
  } finally {
    await backends.close();
  }
}
