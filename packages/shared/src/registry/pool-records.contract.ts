import { describe, expect, it } from "vitest";
import type { PoolRecord } from "./pool-record.ts";
import type { PoolRecords } from "./pool-records.ts";

/** What every implementation does. @param create - records of their own, and a time after which a lease of `leaseMs` has run out */
export function poolRecordsContract(
  create: () => Promise<{ readonly records: PoolRecords; readonly leaseMs: number; readonly leaseEnds: () => Promise<void> }>,
): void {
  const record: PoolRecord = {
    source: "pods default: app=vllm",
    exists: true,
    targets: [
      {
        address: "10.0.0.1:8000",
        pod: "default/a",
        uid: "u",
        rank: 0,
        events: "tcp://10.0.0.1:5557",
        replay: null,
        ready: true,
        role: null,
        engine: "vllm",
        labels: { app: "vllm" },
      },
    ],
    prefixCache: { mode: "estimated", blockSize: null, hashSeed: null, from: "annotation" },
    objectives: [{ name: "urgent", priority: -3 }],
    models: [{ name: "chat", targets: [{ model: "m", weight: 1 }], criticality: "standard", from: "InferenceModel x" }],
    problems: ["something"],
    at: 17,
  };

  describe("records of pools", () => {
    it("are read as they were written, until they are replaced or removed", async () => {
      const { records } = await create();
      expect(await records.read()).toEqual(new Map());
      expect(
        await records.lead(
          "a",
          60_000,
          new Map([
            ["p", record],
            ["q", { ...record, exists: false }],
          ]),
        ),
      ).toBe(true);
      expect(await records.read()).toEqual(
        new Map([
          ["p", record],
          ["q", { ...record, exists: false }],
        ]),
      );
      // Reading once more is the same; so is leading without news.
      expect(await records.lead("a", 60_000, new Map())).toBe(true);
      expect((await records.read()).get("p")).toEqual(record);
      await records.lead(
        "a",
        60_000,
        new Map([
          ["p", { ...record, at: 18 }],
          ["q", null],
        ]),
      );
      expect(await records.read()).toEqual(new Map([["p", { ...record, at: 18 }]]));
    });

    it("are written by one at a time, whose right runs out or is given back", async () => {
      const { records, leaseMs, leaseEnds } = await create();
      expect(await records.leader()).toBeNull();
      expect(await records.lead("a", leaseMs, new Map([["p", record]]))).toBe(true);
      expect(await records.lead("b", 60_000, new Map([["p", null]]))).toBe(false);
      expect((await records.read()).size).toBe(1);
      expect(await records.leader()).toBe("a");
      await records.resign("b");
      expect(await records.leader()).toBe("a");
      await leaseEnds();
      expect(await records.lead("b", 60_000, new Map())).toBe(true);
      expect(await records.lead("a", 60_000, new Map([["p", null]]))).toBe(false);
      await records.resign("b");
      expect(await records.leader()).toBeNull();
      expect((await records.read()).get("p")).toEqual(record);
    });

    it("tell whoever listens", async () => {
      const { records } = await create();
      let stop = (): void => {};
      const told = new Promise<void>((resolve) => {
        stop = records.onChange(resolve);
      });
      // A subscription may take a moment to arrive.
      let isTold = false;
      void told.then(() => {
        isTold = true;
      });
      for (let at = 0; !isTold && at < 1_000; at++) {
        await records.lead("a", 60_000, new Map([["p", { ...record, at }]]));
        await new Promise((resolve) => setImmediate(resolve));
      }
      await told;
      stop();
    });
  });
}
