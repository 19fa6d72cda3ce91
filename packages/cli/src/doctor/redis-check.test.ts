import { parseRedisInfo } from "@kvatlas/shared/redis-info";
import { describe, expect, it } from "vitest";
import { checkRedisInfo } from "./redis-check.ts";

const good = "# Server\r\nredis_version:7.0.15\r\nrole:master\r\nused_memory:1048576\r\nmaxmemory:0\r\nmaxmemory_policy:noeviction\r\n";

function problemsOf(text: string): readonly string[] {
  return checkRedisInfo(parseRedisInfo(text)).flatMap(({ status, subject, message }) =>
    status === "problem" ? [`${subject}: ${message}`] : [],
  );
}

describe("checkRedisInfo", () => {
  it("accepts a server as it should be", () => {
    expect(checkRedisInfo(parseRedisInfo(good)).map(({ status, message }) => `${status} ${message}`)).toEqual([
      "ok Redis 7.0.15",
      "ok noeviction",
      "ok 1.0 MiB used, no limit",
      "ok master",
    ]);
  });

  it("knows Valkey by its own version", () => {
    expect(checkRedisInfo(parseRedisInfo(`${good}valkey_version:8.1.0\r\n`))[0]?.message).toBe("Valkey 8.1.0");
  });

  it.each([
    ["redis_version:7.0.15", "redis_version:5.0.7", "version: Redis 5.0.7 is too old"],
    ["maxmemory_policy:noeviction", "maxmemory_policy:allkeys-lru", "maxmemory-policy: it is allkeys-lru"],
    ["maxmemory:0", "maxmemory:1100000", "memory: 1.0 MiB of 1.0 MiB are used"],
    ["role:master", "role:slave", "role: this is a replica"],
  ])("%s -> %s is a problem", (from, to, message) => {
    const problems = problemsOf(good.replace(from, to));
    expect(problems).toHaveLength(1);
    expect(problems[0]).toContain(message);
  });

  it("finds fault with an empty answer", () => {
    expect(problemsOf("")).toHaveLength(3);
  });
});
