import type { RedisInfo } from "@kvatlas/shared/redis-info";
import { ok, problem, type Verdict } from "./verdict.ts";

/** The oldest that speaks RESP3 and has what the scripts use. */
const oldestMajor = 6;
/** Above this share of maxmemory, writes are about to fail. */
const fullRatio = 0.9;

/** Pure: version, eviction policy and memory of a server that has answered. */
export function checkRedisInfo(info: RedisInfo): readonly Verdict[] {
  return [checkVersion(info), checkPolicy(info), checkMemory(info), checkRole(info)];
}

function checkVersion(info: RedisInfo): Verdict {
  const isValkey = info.has("valkey_version");
  const version = info.get("valkey_version") ?? info.get("redis_version") ?? "";
  const major = Number.parseInt(version, 10);
  const name = isValkey ? "Valkey" : "Redis";
  if (Number.isNaN(major)) return problem("redis", "version", "INFO does not tell the version. Is this a Redis or Valkey server?");
  if (!isValkey && major < oldestMajor)
    return problem("redis", "version", `Redis ${version} is too old: ${oldestMajor} or newer is needed.`);
  return ok("redis", "version", `${name} ${version}`);
}

function checkPolicy(info: RedisInfo): Verdict {
  const policy = info.get("maxmemory_policy") ?? "";
  if (policy === "noeviction") return ok("redis", "maxmemory-policy", "noeviction");
  return problem(
    "redis",
    "maxmemory-policy",
    `it is ${policy === "" ? "not told" : policy}: Redis may drop parts of the index by itself, which reads as caches that are colder than they are. Set it: redis-cli CONFIG SET maxmemory-policy noeviction`,
  );
}

function checkMemory(info: RedisInfo): Verdict {
  const used = Number(info.get("used_memory") ?? Number.NaN);
  const limit = Number(info.get("maxmemory") ?? Number.NaN);
  if (!Number.isFinite(used) || !Number.isFinite(limit)) return problem("redis", "memory", "INFO does not tell how much memory is used.");
  if (limit === 0) return ok("redis", "memory", `${mebibytes(used)} used, no limit`);
  if (used > limit * fullRatio) {
    return problem(
      "redis",
      "memory",
      `${mebibytes(used)} of ${mebibytes(limit)} are used; past the limit the index can no longer be written and routing falls back to load. Raise maxmemory.`,
    );
  }
  return ok("redis", "memory", `${mebibytes(used)} of ${mebibytes(limit)} used`);
}

function checkRole(info: RedisInfo): Verdict {
  const role = info.get("role") ?? "";
  if (role === "slave") return problem("redis", "role", "this is a replica, which refuses writes. Point redis.url at the primary.");
  return ok("redis", "role", role === "" ? "unknown" : role);
}

function mebibytes(bytes: number): string {
  return `${(bytes / 1_048_576).toFixed(1)} MiB`;
}
