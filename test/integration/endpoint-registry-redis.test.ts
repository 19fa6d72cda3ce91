import { createRedisKeys } from "@kvatlas/shared/index/redis-keys";
import { silentLogger } from "@kvatlas/shared/logger";
import { createRedisConnection, type RedisConnection } from "@kvatlas/shared/redis";
import { endpointRegistryContract } from "@kvatlas/shared/registry/endpoint-registry.contract";
import { createRedisEndpointRegistry } from "@kvatlas/shared/registry/redis-endpoint-registry";
import { afterAll, beforeAll, describe } from "vitest";
import { testRedisUrl, uniqueKeyPrefix } from "../support/redis.ts";

let connection: RedisConnection;
beforeAll(() => {
  connection = createRedisConnection({ url: testRedisUrl(), commandTimeoutMs: 1_000 }, "background", silentLogger);
});
afterAll(() => connection.close());

describe("RedisEndpointRegistry", () => {
  endpointRegistryContract(async () => createRedisEndpointRegistry({ connection, keys: createRedisKeys(uniqueKeyPrefix()) }));
});
