import type { RedisKeys } from "../index/redis-keys.ts";
import type { RedisCommand, RedisConnection, RedisReply } from "../redis.ts";
import { redisError } from "../redis-error.ts";
import type { EndpointId } from "../types.ts";
import type { HousekeepingRecords, RebuildRequest } from "./housekeeping-records.ts";

export interface RedisHousekeepingDeps {
  readonly connection: RedisConnection;
  readonly keys: RedisKeys;
}

/** The records in Redis: two hashes, `<prefix>:housekeeping` and `<prefix>:rebuild`. Does not own its connection. */
export function createRedisHousekeepingRecords(deps: RedisHousekeepingDeps): HousekeepingRecords {
  const { connection, keys } = deps;

  async function send(...commands: readonly RedisCommand[]): Promise<readonly RedisReply[]> {
    const replies = await connection.send(commands);
    for (const reply of replies) if (reply instanceof Error) throw redisError(reply);
    return replies;
  }

  async function hash(key: string): Promise<readonly (readonly [string, string])[]> {
    const [fields] = await send(["hgetall", key]);
    return Object.entries((fields ?? {}) as Record<string, string>);
  }

  return {
    progress: async () => new Map(await hash(keys.housekeeping)),
    saveProgress: async (task, text) => {
      await send(text === null ? ["hdel", keys.housekeeping, task] : ["hset", keys.housekeeping, task, text]);
    },
    requestRebuild: async (request) => {
      await send(["hset", keys.rebuild, request.endpoint, rebuildToText(request)]);
    },
    rebuildRequests: async () =>
      (await hash(keys.rebuild))
        .map(([endpoint, text]) => rebuildFromText(endpoint as EndpointId, text))
        .filter((request) => request !== null),
    endRebuild: async (endpoint, incarnation) => {
      const [text] = await send(["hget", keys.rebuild, endpoint]);
      const request = typeof text === "string" ? rebuildFromText(endpoint, text) : null;
      // What cannot be read is nobody's request.
      if (typeof text === "string" && (request === null || request.incarnation <= incarnation))
        await send(["hdel", keys.rebuild, endpoint]);
    },
  };
}

/** `<incarnation>:<reason>` */
function rebuildToText({ incarnation, reason }: RebuildRequest): string {
  return `${incarnation}:${reason}`;
}

function rebuildFromText(endpoint: EndpointId, text: string): RebuildRequest | null {
  const match = /^(\d+):(.*)$/s.exec(text);
  return match === null ? null : { endpoint, incarnation: Number(match[1]), reason: match[2] ?? "" };
}
