import { describe, expect, it } from "vitest";
import { FakeClock } from "../clock.ts";
import { poolSchema } from "../config/schema.ts";
import { KnownPools } from "./known-pools.ts";
import { MemoryPoolRecords } from "./memory-pool-records.ts";
import { effectivePool, type PoolRecord, poolRecordFromText } from "./pool-record.ts";
import { poolRecordsContract } from "./pool-records.contract.ts";

describe("MemoryPoolRecords", () => {
  poolRecordsContract(async () => {
    const clock = new FakeClock();
    return { records: new MemoryPoolRecords(clock), leaseMs: 1_000, leaseEnds: async () => clock.advance(1_001) };
  });
});

const record: PoolRecord = { source: "", exists: true, targets: [], prefixCache: null, objectives: [], models: [], problems: [], at: 0 };

describe("what a reader goes by", () => {
  it("stays when the store has lost it, and goes when it is said to be gone", () => {
    const known = new KnownPools();
    known.update(
      new Map([
        ["p", record],
        ["q", record],
      ]),
    );
    expect([...known.update(new Map([["q", { ...record, exists: false }]]))]).toEqual([
      ["p", record],
      ["q", { ...record, exists: false }],
    ]);
    expect(known.update(new Map()).size).toBe(2);
  });

  it("is not what cannot be read", () => {
    for (const text of ["", "{", "[]", "null", '{"source":1}', JSON.stringify({ ...record, targets: [{}] })])
      expect(poolRecordFromText(text)).toBeNull();
    expect(poolRecordFromText(JSON.stringify(record))).toEqual(record);
  });
});

describe("a pool's settings", () => {
  const said = { mode: "precise", blockSize: 64, hashSeed: "7", from: "policy" } as const;
  const settingsOf = (prefixCache: object, found: PoolRecord["prefixCache"]) => {
    const pool = poolSchema.parse({ name: "p", model: "m", prefixCache });
    const { mode, blockSize, hashSeed } = effectivePool(pool, { ...record, prefixCache: found }).prefixCache;
    return [mode, blockSize, hashSeed];
  };

  it.each([
    ["as configured when nothing is said", { mode: "estimated" }, null, ["estimated", "auto", "auto"]],
    ["as the cluster says", { mode: "estimated" }, said, ["precise", 64, "7"]],
    ["what is not said is as configured", { mode: "estimated" }, { ...said, mode: null, hashSeed: null }, ["estimated", 64, "auto"]],
    ["what is configured on purpose stays", { blockSize: 16, hashSeed: "0" }, said, ["precise", 16, "0"]],
    ["off stays off", { mode: "off" }, said, ["off", "auto", "auto"]],
  ])("%s", (_name, configured, found, expected) => {
    expect(settingsOf(configured, found)).toEqual(expected);
  });
});
