import type { RedisKeys } from "../index/redis-keys.ts";
import type { RedisCommand, RedisConnection, RedisReply } from "../redis.ts";
import { redisError } from "../redis-error.ts";
import { readScript, runScript } from "../redis-scripts.ts";
import { type PoolRecord, poolRecordFromText } from "./pool-record.ts";
import type { PoolRecords } from "./pool-records.ts";

export interface RedisPoolRecordsDeps {
  readonly connection: RedisConnection;
  readonly keys: Pick<RedisKeys, "pools" | "poolsLease" | "changes">;
}

/** No name of a pool has a `#`. */
const VERSION_FIELD = "#version";

/** The records in Redis: a hash, `<prefix>:{pools}`, and a lease, `<prefix>:{pools}:lease`. Does not own its connection. */
export function createRedisPoolRecords({ connection, keys }: RedisPoolRecordsDeps): PoolRecords {
  const script = readScript("lead-2");
  let last: { readonly version: string; readonly records: ReadonlyMap<string, PoolRecord> } | null = null;

  async function send(command: RedisCommand): Promise<RedisReply> {
    const [reply] = await connection.send([command]);
    if (reply instanceof Error) throw redisError(reply);
    return reply;
  }

  async function run(owner: string, ttlMs: number, fields: readonly string[]): Promise<boolean> {
    const [outcome] = await runScript(connection, script, [{ keys: [keys.poolsLease, keys.pools], args: [owner, ttlMs, ...fields] }]);
    return outcome === 1;
  }

  return {
    lead: async (owner, ttlMs, changes) => {
      const fields = [...changes].flatMap(([pool, record]) => [pool, record === null ? "" : JSON.stringify(record)]);
      const leads = await run(owner, Math.max(1, Math.ceil(ttlMs)), fields);
      if (leads && changes.size > 0) await send(["publish", keys.changes, "pools"]);
      return leads;
    },
    resign: async (owner) => {
      await run(owner, 0, []);
    },
    leader: async () => {
      const owner = await send(["get", keys.poolsLease]);
      return typeof owner === "string" ? owner : null;
    },
    read: async () => {
      // Everybody asks every second, and answers are long.
      const version = await send(["hget", keys.pools, VERSION_FIELD]);
      if (last !== null && version === last.version) return last.records;
      const fields = ((await send(["hgetall", keys.pools])) ?? {}) as Record<string, string>;
      const { [VERSION_FIELD]: readVersion, ...texts } = fields;
      const records = new Map(
        Object.entries(texts).flatMap(([pool, text]) => {
          const record = poolRecordFromText(text);
          return record === null ? [] : [[pool, record] as const];
        }),
      );
      last = readVersion === undefined ? null : { version: readVersion, records };
      return records;
    },
    onChange: (listener) => connection.subscribe(keys.changes, listener),
  };
}
