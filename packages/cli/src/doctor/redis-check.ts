import type { RedisInfo } from "@kvatlas/shared/redis-info";
import type { RedisServer } from "./redis-servers.ts";
import { ok, problem, skipped, type Verdict } from "./verdict.ts";

/** The oldest that has what the scripts use. */
const oldest = [6, 2] as const;
/** From here on a router's user can be held to reading. */
const recommendedMajor = 7;
/** Above this share of maxmemory, writes are about to fail. */
const fullRatio = 0.9;

/** Pure: version, eviction policy, memory and role of every server. */
export function checkRedisServers(servers: readonly RedisServer[]): readonly Verdict[] {
  const smallest = Math.min(...servers.filter(({ isPrimary }) => isPrimary).map(({ info }) => limitOf(info)));
  return servers.flatMap((server) => {
    const subjectOf = (what: string): string => (servers.length === 1 ? what : `${server.server} ${what}`.trim());
    if (server.info !== null) return checkServer(server, server.info, subjectOf, smallest);
    const why =
      server.silence === "refused"
        ? "the user may not run INFO, so version, eviction policy and memory are unknown."
        : "it cannot be reached from here, so its version, eviction policy and memory are unknown.";
    return [skipped("redis", subjectOf(""), why)];
  });
}

function checkServer(
  { isPrimary }: RedisServer,
  info: RedisInfo,
  subjectOf: (what: string) => string,
  smallestPrimary: number,
): readonly Verdict[] {
  return [
    checkVersion(info, subjectOf("version")),
    checkPolicy(info, subjectOf("maxmemory-policy")),
    checkMemory(info, subjectOf("memory"), isPrimary ? 0 : smallestPrimary),
    isPrimary ? checkPrimary(info, subjectOf("role")) : checkReplica(info, subjectOf("role")),
  ];
}

function checkVersion(info: RedisInfo, subject: string): Verdict {
  const isValkey = info.has("valkey_version");
  const version = info.get("valkey_version") ?? info.get("redis_version") ?? "";
  const [major = Number.NaN, minor = 0] = version.split(".").map(Number);
  const name = isValkey ? "Valkey" : "Redis";
  if (Number.isNaN(major)) return problem("redis", subject, "INFO does not tell the version. Is this a Redis or Valkey server?");
  if (isValkey || major >= recommendedMajor) return ok("redis", subject, `${name} ${version}`);
  if (major < oldest[0] || (major === oldest[0] && minor < oldest[1]))
    return problem("redis", subject, `Redis ${version} is too old: 7.0 or newer, or Valkey, is what kvatlas is tested with.`);
  return ok("redis", subject, `Redis ${version}, which works; from 7.0 on users of routers can be held to reading`);
}

function checkPolicy(info: RedisInfo, subject: string): Verdict {
  const policy = info.get("maxmemory_policy") ?? "";
  if (policy === "noeviction") return ok("redis", subject, "noeviction");
  return problem(
    "redis",
    subject,
    `it is ${policy === "" ? "not told" : policy}: Redis may drop parts of the index by itself, which reads as caches that are colder than they are. Set it: redis-cli CONFIG SET maxmemory-policy noeviction`,
  );
}

/** @param atLeast `maxmemory` of what this server may have to take the place of; 0: nothing */
function checkMemory(info: RedisInfo, subject: string, atLeast: number): Verdict {
  const used = Number(info.get("used_memory") ?? Number.NaN);
  const limit = limitOf(info);
  if (!Number.isFinite(used) || Number.isNaN(limit)) return problem("redis", subject, "INFO does not tell how much memory is used.");
  if (limit === Number.POSITIVE_INFINITY) return ok("redis", subject, `${mebibytes(used)} used, no limit`);
  if (used > limit * fullRatio) {
    return problem(
      "redis",
      subject,
      `${mebibytes(used)} of ${mebibytes(limit)} are used; past the limit the index can no longer be written and routing falls back to load. Raise maxmemory.`,
    );
  }
  if (limit < atLeast) {
    const primary = atLeast === Number.POSITIVE_INFINITY ? "its primary has no limit" : `its primary has ${mebibytes(atLeast)}`;
    return problem("redis", subject, `its limit is ${mebibytes(limit)}, ${primary}: after a failover it may be full. Set both alike.`);
  }
  return ok("redis", subject, `${mebibytes(used)} of ${mebibytes(limit)} used`);
}

/** `maxmemory`; infinite where there is no limit, NaN where it is not told. */
export function limitOf(info: RedisInfo | null): number {
  const limit = Number(info?.get("maxmemory") ?? Number.NaN);
  return limit === 0 ? Number.POSITIVE_INFINITY : limit;
}

function checkPrimary(info: RedisInfo, subject: string): Verdict {
  const role = info.get("role") ?? "";
  if (role === "slave") return problem("redis", subject, "this is a replica, which refuses writes. Point redis.url at the primary.");
  return ok("redis", subject, role === "" ? "unknown" : role);
}

function checkReplica(info: RedisInfo, subject: string): Verdict {
  if (info.get("master_link_status") === "up") return ok("redis", subject, "replica, in step with its primary");
  return problem("redis", subject, "this replica has lost its primary: after a failover it would have older data. See its log.");
}

export function mebibytes(bytes: number): string {
  return `${(bytes / 1_048_576).toFixed(1)} MiB`;
}
