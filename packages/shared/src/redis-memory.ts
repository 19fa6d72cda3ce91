import type { RedisConnection } from "./redis.ts";
import { redisError } from "./redis-error.ts";
import { parseRedisInfo } from "./redis-info.ts";

export interface ServerMemory {
  /** As in `RedisLayout`. */
  readonly server: string;
  readonly usedBytes: number;
  /** `maxmemory`; 0: no limit. */
  readonly maxBytes: number;
}

/**
 * Memory of every server that holds data.
 *
 * @throws KVATLAS_REDIS_UNAVAILABLE, KVATLAS_REDIS_UNSUITABLE the user may not run INFO.
 */
export async function serverMemories(connection: RedisConnection): Promise<readonly ServerMemory[]> {
  const { nodes } = await connection.layout();
  return Promise.all(
    nodes.map(async (server) => {
      const [reply] = await connection.sendTo(server, [["info", "memory"]]);
      if (reply instanceof Error) throw redisError(reply);
      const info = parseRedisInfo(String(reply));
      return { server, usedBytes: Number(info.get("used_memory") ?? 0), maxBytes: Number(info.get("maxmemory") ?? 0) };
    }),
  );
}
