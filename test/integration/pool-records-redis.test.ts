import { setTimeout as wait } from "node:timers/promises";
import { createRedisKeys } from "@kvatlas/shared/index/redis-keys";
import { silentLogger } from "@kvatlas/shared/logger";
import { createRedisConnection, type RedisConnection } from "@kvatlas/shared/redis";
import { poolRecordsContract } from "@kvatlas/shared/registry/pool-records.contract";
import { createRedisPoolRecords } from "@kvatlas/shared/registry/redis-pool-records";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { testRedisUrl, uniqueKeyPrefix } from "../support/redis.ts";

let connection: RedisConnection;
beforeAll(() => {
  connection = createRedisConnection({ url: testRedisUrl(), commandTimeoutMs: 1_000 }, "background", silentLogger);
});
afterAll(() => connection.close());

describe("pool records in Redis", () => {
  poolRecordsContract(async () => {
    const keys = createRedisKeys(uniqueKeyPrefix());
    const leaseEnds = async (): Promise<void> => {
      for (;;) {
        const [left] = await connection.send([["pttl", keys.poolsLease]]);
        if (Number(left) < 0) return;
        await wait(Number(left) + 1);
      }
    };
    return { records: createRedisPoolRecords({ connection, keys }), leaseMs: 1_000, leaseEnds };
  });

  it("of another reader are seen anew after every change, and after the store has lost them", async () => {
    const keys = createRedisKeys(uniqueKeyPrefix());
    const [writer, reader] = [createRedisPoolRecords({ connection, keys }), createRedisPoolRecords({ connection, keys })];
    const record = { source: "s", exists: true, targets: [], prefixCache: null, objectives: [], models: [], problems: [], at: 1 };
    for (const at of [1, 2, 3]) {
      await writer.lead("a", 60_000, new Map([["p", { ...record, at }]]));
      const first = await reader.read();
      expect(first.get("p")?.at).toBe(at);
      // Nothing is read twice.
      expect(await reader.read()).toBe(first);
    }
    await connection.send([["hset", keys.pools, "odd", "{"]]);
    await connection.send([["del", keys.pools]]);
    expect(await reader.read()).toEqual(new Map());
  });
});
