import { parseRedisInfo } from "@kvatlas/shared/redis-info";
import { describe, expect, it } from "vitest";
import { checkRedisServers } from "./redis-check.ts";
import type { RedisServer } from "./redis-servers.ts";

const good = "# Server\r\nredis_version:7.0.15\r\nrole:master\r\nused_memory:1048576\r\nmaxmemory:0\r\nmaxmemory_policy:noeviction\r\n";
const replica = good.replace("role:master", "role:slave\r\nmaster_link_status:up");

function server(text: string | null, over: Partial<RedisServer> = {}): RedisServer {
  return {
    server: "a:6379",
    isPrimary: true,
    info: text === null ? null : parseRedisInfo(text),
    silence: text === null ? "unreachable" : null,
    ...over,
  };
}

function problemsOf(...servers: readonly RedisServer[]): readonly string[] {
  return checkRedisServers(servers).flatMap(({ status, subject, message }) => (status === "problem" ? [`${subject}: ${message}`] : []));
}

describe("checkRedisServers", () => {
  it("accepts a server as it should be", () => {
    expect(checkRedisServers([server(good)]).map(({ status, subject, message }) => `${status} ${subject}: ${message}`)).toEqual([
      "ok version: Redis 7.0.15",
      "ok maxmemory-policy: noeviction",
      "ok memory: 1.0 MiB used, no limit",
      "ok role: master",
    ]);
  });

  it("knows Valkey by its own version", () => {
    expect(checkRedisServers([server(`${good}valkey_version:8.1.0\r\n`)])[0]?.message).toBe("Valkey 8.1.0");
  });

  it("says what Redis 6.2 lacks", () => {
    expect(checkRedisServers([server(good.replace("7.0.15", "6.2.14"))])[0]).toMatchObject({
      status: "ok",
      message: expect.stringContaining("from 7.0 on"),
    });
  });

  it.each([
    ["redis_version:7.0.15", "redis_version:5.0.7", "version: Redis 5.0.7 is too old"],
    ["redis_version:7.0.15", "redis_version:6.0.16", "version: Redis 6.0.16 is too old"],
    ["maxmemory_policy:noeviction", "maxmemory_policy:allkeys-lru", "maxmemory-policy: it is allkeys-lru"],
    ["maxmemory:0", "maxmemory:1100000", "memory: 1.0 MiB of 1.0 MiB are used"],
    ["role:master", "role:slave", "role: this is a replica"],
  ])("%s -> %s is a problem", (from, to, message) => {
    const problems = problemsOf(server(good.replace(from, to)));
    expect(problems).toHaveLength(1);
    expect(problems[0]).toContain(message);
  });

  it("finds fault with an empty answer", () => {
    expect(problemsOf(server(""))).toHaveLength(3);
  });

  it("looks at every server, replicas as what they will have to be", () => {
    const [b, c] = [
      { server: "b:6379", isPrimary: false },
      { server: "c:6379", isPrimary: false },
    ];
    expect(problemsOf(server(good), server(replica, b))).toEqual([]);
    expect(problemsOf(server(good), server(replica.replace("noeviction", "allkeys-lru"), b))[0]).toContain("b:6379 maxmemory-policy: ");
    expect(problemsOf(server(good), server(replica.replace("status:up", "status:down"), b))[0]).toContain(
      "b:6379 role: this replica has lost",
    );
    const limited = replica.replace("maxmemory:0", "maxmemory:8388608");
    expect(problemsOf(server(good), server(limited, b))[0]).toContain("its limit is 8.0 MiB, its primary has no limit");
    expect(problemsOf(server(good.replace("maxmemory:0", "maxmemory:9000000")), server(limited, b))[0]).toContain(
      "its primary has 8.6 MiB",
    );
    expect(problemsOf(server(good.replace("maxmemory:0", "maxmemory:8388608")), server(limited, b))).toEqual([]);
    expect(checkRedisServers([server(good), server(null, b), server(null, { ...c, silence: "refused" })]).slice(4)).toEqual([
      { check: "redis", subject: "b:6379", status: "skipped", message: expect.stringContaining("cannot be reached from here") },
      { check: "redis", subject: "c:6379", status: "skipped", message: expect.stringContaining("may not run INFO") },
    ]);
  });
});
