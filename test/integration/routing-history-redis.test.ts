import { createRedisKeys } from "@kvatlas/shared/index/redis-keys";
import { silentLogger } from "@kvatlas/shared/logger";
import { createRedisConnection, type RedisConnection } from "@kvatlas/shared/redis";
import { createRedisRoutingHistory } from "@kvatlas/shared/routing-history/redis-routing-history";
import { routingHistoryContract } from "@kvatlas/shared/routing-history/routing-history.contract";
import type { BlockKey, EndpointId, ScopeId } from "@kvatlas/shared/types";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { testRedisUrl, uniqueKeyPrefix } from "../support/redis.ts";

let connection: RedisConnection;
beforeAll(() => {
  connection = createRedisConnection({ url: testRedisUrl(), commandTimeoutMs: 1_000 }, "background", silentLogger);
});
afterAll(() => connection.close());

describe.each([1, 16])("RedisRoutingHistory in %i shards", (shards) => {
  routingHistoryContract(async () => createRedisRoutingHistory({ connection, keys: createRedisKeys(uniqueKeyPrefix()) }, { shards }));
});

describe("RedisRoutingHistory", () => {
  it("leaves nothing behind for longer than its time to live", async () => {
    const keys = createRedisKeys(uniqueKeyPrefix());
    const scope = "scope" as ScopeId;
    const chain = { scope, keys: ["0000000000000001" as BlockKey, "0000000000000002" as BlockKey] };
    const history = createRedisRoutingHistory({ connection, keys });
    await history.record([{ chain, endpoint: "10.0.0.1:8000" as EndpointId, at: 7 }], 60_000);
    const names = chain.keys.map((key) => keys.routedPrefix(scope, 0) + key);
    const remaining = await connection.send(names.map((name) => ["pttl", name] as const));
    for (const ms of remaining) expect(Number(ms)).toBeGreaterThan(0);
    expect(await connection.send([["zrange", names[1] ?? "", 0, -1, "WITHSCORES"]])).toEqual([["10.0.0.1:8000", "7"]]);
  });
});
