import { createRedisKeys } from "@kvatlas/shared/index/redis-keys";
import { silentLogger } from "@kvatlas/shared/logger";
import { createRedisConnection, type RedisConnection } from "@kvatlas/shared/redis";
import { noQuality } from "@kvatlas/shared/registry/quality-records";
import { createRedisQualityRecords } from "@kvatlas/shared/registry/redis-quality-records";
import { afterAll, beforeAll, expect, it } from "vitest";
import { testRedisUrl, uniqueKeyPrefix } from "../support/redis.ts";

let connection: RedisConnection;
beforeAll(() => {
  connection = createRedisConnection({ url: testRedisUrl(), commandTimeoutMs: 1_000 }, "background", silentLogger);
});
afterAll(() => connection.close());

it("quality records in Redis are read as they were written, and expire", async () => {
  const keys = createRedisKeys(uniqueKeyPrefix());
  const records = createRedisQualityRecords({ connection, keys });
  const one = { ...noQuality, since: 1, at: 2, precise: 3, over: 4 };
  await records.save("one", one, 60_000);
  expect(await records.read(["one", "two"])).toEqual(new Map([["one", one]]));
  const findings = [{ pool: "chat", name: "tokenizer", text: "größer" }];
  await records.save("two", { ...one, findings }, 60_000);
  expect((await records.read(["two"])).get("two")).toEqual({ ...one, findings });
  for (const broken of ["{", "[1]", "null"]) {
    await connection.send([["hset", keys.quality("two"), "findings", broken]]);
    expect((await records.read(["two"])).get("two")).toEqual(one);
  }
  const [ttl] = await connection.send([["pttl", keys.quality("one")]]);
  expect(Number(ttl)).toBeGreaterThan(0);
  await connection.send([["hset", keys.quality("one"), "precise", "many"]]);
  expect((await records.read(["one"])).get("one")?.precise).toBe(0);
});
