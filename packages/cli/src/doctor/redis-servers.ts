import type { RedisConfig } from "@kvatlas/shared/config/schema";
import type { Logger } from "@kvatlas/shared/logger";
import { createRedisConnection, type RedisConnection, type RedisReply } from "@kvatlas/shared/redis";
import { parseRedisInfo, type RedisInfo } from "@kvatlas/shared/redis-info";
import { redisTopology } from "@kvatlas/shared/redis-topology";

/** One server, and what it says of itself. */
export interface RedisServer {
  /** `host:port`; of a primary that Sentinels name, their name for it. */
  readonly server: string;
  /** Holds data that is written to; else a replica, which will be when its primary dies. */
  readonly isPrimary: boolean;
  /** Null: it did not say, and `silence` is why. */
  readonly info: RedisInfo | null;
  readonly silence: "refused" | "unreachable" | null;
}

/**
 * Asks every server that holds data, primaries first, then those that would take their place (behind Sentinel, in a cluster): a failover is the wrong
 * moment to learn that a replica evicts.
 *
 * @throws KVATLAS_REDIS_UNAVAILABLE a primary does not answer.
 */
export async function askRedisServers(
  redis: RedisConfig,
  connection: RedisConnection,
  logger: Logger,
  timeoutMs: number,
): Promise<readonly RedisServer[]> {
  const { nodes } = await connection.layout();
  const primaries = await Promise.all(
    nodes.map(async (node) => answered(node, true, (await connection.sendTo(node, [["info"], ["info", "replication"]])).join("\r\n"))),
  );
  if (redisTopology(redis) === "single") return primaries;
  const replicas = new Set(primaries.flatMap(({ info }) => (info === null ? [] : replicasIn(info))));
  return [...primaries, ...(await Promise.all([...replicas].map((replica) => askReplica(redis, replica, logger, timeoutMs))))];
}

function answered(server: string, isPrimary: boolean, reply: RedisReply): RedisServer {
  // A user without the right to ask gets an error for an answer, which has none of the lines.
  const info = parseRedisInfo(String(reply));
  return info.has("redis_version") ? { server, isPrimary, info, silence: null } : { server, isPrimary, info: null, silence: "refused" };
}

async function askReplica(redis: RedisConfig, server: string, logger: Logger, timeoutMs: number): Promise<RedisServer> {
  const { cluster: _, sentinel: __, ...access } = redis;
  const connection = createRedisConnection({ ...access, url: `redis://${server}` }, "background", logger);
  try {
    if (!(await connection.connected(timeoutMs))) return { server, isPrimary: false, info: null, silence: "unreachable" };
    const [reply] = await connection.send([["info"]], AbortSignal.timeout(timeoutMs));
    return answered(server, false, reply);
  } catch {
    return { server, isPrimary: false, info: null, silence: "unreachable" };
  } finally {
    await connection.close();
  }
}

/** `slave0:ip=10.0.0.7,port=6379,state=online,...` */
function replicasIn(info: RedisInfo): readonly string[] {
  return [...info].flatMap(([field, value]) => {
    const match = /^slave\d+$/.test(field) ? /(?:^|,)ip=([^,]+),port=(\d+)/.exec(value) : null;
    if (match?.[1] === undefined) return [];
    return [`${match[1].includes(":") ? `[${match[1]}]` : match[1]}:${match[2]}`];
  });
}
