import { readFileSync } from "node:fs";
import { blockIndexContract } from "@kvatlas/shared/index/block-index.contract";
import { createRedisBlockIndex } from "@kvatlas/shared/index/redis-block-index";
import { createRedisKeys } from "@kvatlas/shared/index/redis-keys";
import { silentLogger } from "@kvatlas/shared/logger";
import { createRedisConnection, type RedisConnection } from "@kvatlas/shared/redis";
import { redisErrorCode } from "@kvatlas/shared/redis-error";
import { endpointRegistryContract } from "@kvatlas/shared/registry/endpoint-registry.contract";
import { createRedisEndpointRegistry } from "@kvatlas/shared/registry/redis-endpoint-registry";
import { createRedisRoutingHistory } from "@kvatlas/shared/routing-history/redis-routing-history";
import { routingHistoryContract } from "@kvatlas/shared/routing-history/routing-history.contract";
import { Redis } from "ioredis";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { eventually } from "../support/eventually.ts";
import { startRedisCluster } from "../support/redis-cluster.ts";
import { type RedisServer, serverPrograms, startRedisServer } from "../support/redis-server.ts";
import { type ServiceRigOptions, startServiceRig } from "../support/service-rig.ts";

const users = ["kvatlas-ingester", "kvatlas-router"] as const;
const forClusters = ["+cluster|slots", "+cluster|info", "+cluster|shards", "+asking", "+readonly"];

/** The words after `ACL SETUSER <user>` in docs/operations.md. */
function documentedRules(user: string): string[] {
  const page = readFileSync(new URL("../../docs/operations.md", import.meta.url), "utf8");
  const command = new RegExp(`ACL SETUSER ${user} ((?:[^\\n]*\\\\\\n)*[^\\n]*)`).exec(page)?.[1];
  if (command === undefined) throw new Error(`docs/operations.md no longer shows ACL SETUSER ${user}`);
  return [...command.replaceAll("\\\n", " ").matchAll(/'([^']*)'|(\S+)/g)].map(([, quoted, plain]) => quoted ?? plain ?? "");
}

async function createUsers(admin: Redis, more: readonly string[] = []): Promise<void> {
  for (const user of users) await admin.call("ACL", "SETUSER", user, ...documentedRules(user), ...more);
}

/** What has been refused to anybody. */
async function refusals(admin: Redis): Promise<readonly string[]> {
  return ((await admin.call("ACL", "LOG")) as unknown[]).map((entry) => JSON.stringify(entry));
}

/** Replica, ingester with housekeeping, and router, each under its user, until every job has run and the router finds blocks. */
async function runServices(redis: (user: string) => ServiceRigOptions["redis"]["ingester"]): Promise<void> {
  const rig = await startServiceRig({ redis: { ingester: redis("kvatlas-ingester"), router: redis("kvatlas-router") } });
  try {
    await rig.settled(1);
    await eventually(async () => {
      for (const job of ["purge", "audit", "forget-departed"])
        expect(await rig.metric("ingester", "kvatlas_ingester_housekeeping_jobs_total", { job, outcome: "ok" })).toBeGreaterThan(0);
      expect(await rig.metric("ingester", "kvatlas_ingester_index_size", { what: "bytes" })).toBeGreaterThan(0);
      expect(await rig.metric("ingester", "kvatlas_redis_memory_bytes", { what: "used" })).toBeGreaterThan(0);
    });
    await rig.settled(2);
  } finally {
    await rig.stop();
  }
}

describe.each(await serverPrograms())("the users that docs/operations.md describes, on $name", ({ program }) => {
  let server: RedisServer;
  let admin: Redis;
  let connection: RedisConnection;
  const urlOf = (user: string) => `redis://${user}:secret@127.0.0.1:${server.port}`;
  beforeAll(async () => {
    server = await startRedisServer({ program });
    admin = new Redis(server.url);
    await createUsers(admin);
    connection = createRedisConnection({ url: urlOf("kvatlas-ingester"), commandTimeoutMs: 1_000 }, "background", silentLogger);
  });
  afterAll(async () => {
    await connection?.close();
    admin?.disconnect();
    await server?.stop();
  });

  describe("suffice for", () => {
    blockIndexContract(async () => {
      await admin.flushall();
      return createRedisBlockIndex({ connection, keys: createRedisKeys("kva") }, { defaultShards: 4 });
    });
    endpointRegistryContract(async () => {
      await admin.flushall();
      return createRedisEndpointRegistry({ connection, keys: createRedisKeys("kva") });
    });
    describe("a router", () => {
      let routers: RedisConnection;
      beforeAll(() => {
        routers = createRedisConnection({ url: urlOf("kvatlas-router"), commandTimeoutMs: 5_000 }, "request", silentLogger);
        return routers.connected(20_000);
      });
      afterAll(() => routers.close());
      routingHistoryContract(async () => {
        await admin.flushall();
        return createRedisRoutingHistory({ connection: routers, keys: createRedisKeys("kva") }, { shards: 4 });
      });
    });
    it("whole services, on one server", async () => {
      await runServices((user) => ({ url: urlOf(user) }));
      expect(await refusals(admin)).toEqual([]);
    });
    it("whole services, on a cluster", async () => {
      const cluster = await startRedisCluster({ program });
      try {
        for (const i of cluster.nodes.keys()) await createUsers(cluster.client(i), forClusters);
        await runServices((username) => ({ cluster: [...cluster.nodes], username, password: "secret" }));
        for (const i of cluster.nodes.keys()) expect(await refusals(cluster.client(i))).toEqual([]);
      } finally {
        await cluster.stop();
      }
    });
  });

  it.each([
    ["kvatlas-router", ["hset", "kva:scopes", "a", "b"]],
    ["kvatlas-router", ["hset", "kva:{abc.0}:seq", "a", "1:1:1"]],
    ["kvatlas-router", ["eval", "return redis.call('hset', KEYS[1], 'a', 'b')", 1, "kva:{abc.0}:b:0000000000000000"]],
    ["kvatlas-router", ["eval", "return redis.call('del', KEYS[1])", 1, "kva:{abc.0}:seq"]],
    ["kvatlas-router", ["unlink", "kva:ep:{a}:meta"]],
    ["kvatlas-router", ["get", "bull:{kva}:housekeeping:meta"]],
    ["kvatlas-router", ["get", "stranger"]],
    ["kvatlas-router", ["flushall"]],
    ["kvatlas-ingester", ["get", "stranger"]],
    ["kvatlas-ingester", ["flushall"]],
    ["kvatlas-ingester", ["keys", "*"]],
    ["kvatlas-ingester", ["config", "get", "*"]],
  ] as const)("%s may not %j", async (user, [name, ...args]) => {
    const client = new Redis(urlOf(user));
    client.on("error", () => {});
    try {
      const refusal = await client.call(name, ...args.map(String)).catch((error: unknown) => error);
      expect(redisErrorCode(refusal), String(refusal)).toBe("NOPERM");
    } finally {
      client.disconnect();
    }
  });
});
