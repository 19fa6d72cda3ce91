import { readFileSync } from "node:fs";
import { blockIndexContract } from "@kvatlas/shared/index/block-index.contract";
import { createRedisBlockIndex } from "@kvatlas/shared/index/redis-block-index";
import { createRedisKeys } from "@kvatlas/shared/index/redis-keys";
import { silentLogger } from "@kvatlas/shared/logger";
import { createRedisConnection, type RedisConnection } from "@kvatlas/shared/redis";
import { endpointRegistryContract } from "@kvatlas/shared/registry/endpoint-registry.contract";
import { createRedisEndpointRegistry } from "@kvatlas/shared/registry/redis-endpoint-registry";
import { Redis } from "ioredis";
import { afterAll, beforeAll, describe } from "vitest";
import { type RedisServer, startRedisServer } from "../support/redis-server.ts";

/** The words after `ACL SETUSER kvatlas` in docs/redis-schema.md. */
function documentedRules(): string[] {
  const page = readFileSync(new URL("../../docs/redis-schema.md", import.meta.url), "utf8");
  const command = /ACL SETUSER kvatlas ((?:[^\n]*\\\n)*[^\n]*)/.exec(page)?.[1];
  if (command === undefined) throw new Error("docs/redis-schema.md no longer shows ACL SETUSER kvatlas");
  return command.replaceAll("\\\n", " ").replaceAll("'", "").split(/\s+/);
}

describe("the Redis user that docs/redis-schema.md describes", () => {
  let server: RedisServer;
  let admin: Redis;
  let connection: RedisConnection;
  beforeAll(async () => {
    server = await startRedisServer();
    admin = new Redis(server.url);
    await admin.call("ACL", "SETUSER", "kvatlas", ...documentedRules());
    connection = createRedisConnection(
      { url: `redis://kvatlas:secret@127.0.0.1:${server.port}`, commandTimeoutMs: 1_000 },
      "background",
      silentLogger,
    );
  });
  afterAll(async () => {
    await connection.close();
    admin.disconnect();
    await server.stop();
  });

  blockIndexContract(async () => {
    await admin.flushall();
    return createRedisBlockIndex({ connection, keys: createRedisKeys("kva") }, { defaultShards: 4 });
  });
  endpointRegistryContract(async () => {
    await admin.flushall();
    return createRedisEndpointRegistry({ connection, keys: createRedisKeys("kva") });
  });
});
