import type { BlockIndex } from "@kvatlas/shared/index/block-index";
import { blockIndexContract } from "@kvatlas/shared/index/block-index.contract";
import { createRedisBlockIndex } from "@kvatlas/shared/index/redis-block-index";
import { createRedisKeys } from "@kvatlas/shared/index/redis-keys";
import { silentLogger } from "@kvatlas/shared/logger";
import { createRedisConnection, type RedisConnection } from "@kvatlas/shared/redis";
import { afterAll, beforeAll, describe } from "vitest";
import { testRedisUrl, uniqueKeyPrefix } from "../support/redis.ts";

let connection: RedisConnection;
beforeAll(() => {
  connection = createRedisConnection({ url: testRedisUrl(), commandTimeoutMs: 1_000 }, "background", silentLogger);
});
afterAll(() => connection.close());

describe.each([
  { shards: 1, maxOpsPerCall: 500 },
  { shards: 4, maxOpsPerCall: 500 },
  { shards: 4, maxOpsPerCall: 7 },
])("RedisBlockIndex with $shards shards and $maxOpsPerCall operations a call", ({ shards, maxOpsPerCall }) => {
  blockIndexContract(async (): Promise<BlockIndex> => {
    return createRedisBlockIndex({ connection, keys: createRedisKeys(uniqueKeyPrefix()) }, { defaultShards: shards, maxOpsPerCall });
  });
});
