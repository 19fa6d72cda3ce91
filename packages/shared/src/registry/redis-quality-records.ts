import type { RedisKeys } from "../index/redis-keys.ts";
import type { RedisCommand, RedisConnection, RedisReply } from "../redis.ts";
import { redisError } from "../redis-error.ts";
import { noQuality, type QualityRecords, type RouterFinding, type RouterQuality } from "./quality-records.ts";

export interface RedisQualityDeps {
  readonly connection: RedisConnection;
  readonly keys: Pick<RedisKeys, "quality">;
}

/** The records in Redis: a hash of numbers, and findings as JSON, for each router, `<prefix>:quality:<router>`, which expires. Does not own its connection. */
export function createRedisQualityRecords({ connection, keys }: RedisQualityDeps): QualityRecords {
  async function send(commands: readonly RedisCommand[]): Promise<readonly RedisReply[]> {
    const replies = await connection.send(commands);
    for (const reply of replies) if (reply instanceof Error) throw redisError(reply);
    return replies;
  }

  return {
    save: async (routerId, quality, ttlMs) => {
      const key = keys.quality(routerId);
      await send([
        [
          "hset",
          key,
          ...Object.entries(quality).flatMap(([name, value]) => [name, typeof value === "number" ? value : JSON.stringify(value)]),
        ],
        ["pexpire", key, Math.max(1, Math.ceil(ttlMs))],
      ]);
    },
    read: async (routerIds) => {
      const replies = await send(routerIds.map((id) => ["hgetall", keys.quality(id)] as const));
      return new Map(
        routerIds.flatMap((id, i) => {
          const quality = qualityOf((replies[i] ?? {}) as Record<string, string>);
          return quality === null ? [] : [[id, quality] as const];
        }),
      );
    },
  };
}

/** Null when nothing was written; what cannot be read counts as 0. */
function qualityOf(fields: Readonly<Record<string, string>>): RouterQuality | null {
  if (fields.at === undefined) return null;
  const numberOf = (name: string) => {
    const value = Number(fields[name] ?? 0);
    return Number.isFinite(value) ? value : 0;
  };
  const sums = Object.fromEntries(Object.keys(noQuality).map((name) => [name, numberOf(name)])) as typeof noQuality;
  const findings = findingsOf(fields.findings);
  return { ...sums, since: numberOf("since"), at: numberOf("at"), ...(findings.length === 0 ? {} : { findings }) };
}

function findingsOf(text: string | undefined): readonly RouterFinding[] {
  if (text === undefined) return [];
  let value: unknown = null;
  try {
    value = JSON.parse(text);
  } catch {
    // Another release, or a hand that slipped: there are none.
  }
  return Array.isArray(value) ? value.filter(isFinding) : [];
}

function isFinding(value: unknown): value is RouterFinding {
  if (typeof value !== "object" || value === null) return false;
  const { pool, name, text } = value as Readonly<Record<string, unknown>>;
  return typeof pool === "string" && typeof name === "string" && typeof text === "string";
}
