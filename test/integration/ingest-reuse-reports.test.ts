import type { Simulator } from "@kvatlas/simulator/app";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { eventually } from "../support/eventually.ts";
import { complete, IngestBed, numbers, poolOfSimulator } from "../support/ingest-bed.ts";
import { recordOf } from "../support/ingest-rig.ts";

/* Requests with `kv_cache_report_mode: full`: the blocks they reuse are reported as stored once more, and nothing in the event says so. */

let bed: IngestBed;
beforeEach(() => {
  bed = new IngestBed();
});
afterEach(() => bed.close());

const full = { vllm_xargs: { kv_cache_report_mode: "full" } };

/** Turns of chats that report what they reuse, more of them than the pool holds, so that most are evicted. */
async function chats(simulator: Simulator, everSeen: Set<string>): Promise<void> {
  for (let chat = 0; chat < 12; chat++) {
    for (const length of [40, 72, 104]) await complete(simulator, numbers(chat * 1_000, length), full);
    for (const { hashes } of simulator.blocks()) for (const hash of Object.keys(hashes)) everSeen.add(hash);
  }
}

describe("reports of reused blocks", () => {
  it("leave nothing behind once the events have shown them, and are named", async () => {
    const simulator = await bed.simulator({ numBlocks: 48 });
    const rig = await bed.ingester([poolOfSimulator(simulator)]);
    const everSeen = new Set<string>();
    await chats(simulator, everSeen);
    await bed.expectEqualToTruth(simulator, everSeen);
    expect(await rig.metric("kvatlas_ingester_incarnations_total", { cause: "reuse reports" })).toBe(1);
    expect(await rig.metric("kvatlas_ingester_block_operations_total", { op: "confirm" })).toBeGreaterThan(0);
    await eventually(async () =>
      expect((await recordOf(bed.store, simulator.address))?.meta).toMatchObject({
        reportsReuse: true,
        findings: { "reuse-reports": expect.stringContaining("kv_cache_report_mode") },
      }),
    );
    // A later owner goes on without counting them, and goes on saying so.
    await rig.ingester.close();
    const next = await bed.ingester([poolOfSimulator(simulator)], {}, "b");
    await chats(simulator, everSeen);
    await bed.expectEqualToTruth(simulator, everSeen);
    expect(await next.metric("kvatlas_ingester_incarnations_total")).toBe(0);
    expect((await recordOf(bed.store, simulator.address))?.meta.findings).toHaveProperty("reuse-reports");
    // Another process may not be asked for them.
    await simulator.applyFaults({ restart: true });
    await complete(simulator, numbers(50_000, 64));
    await bed.expectEqualToTruth(simulator, everSeen);
    await eventually(async () => expect((await recordOf(bed.store, simulator.address))?.meta.reportsReuse).toBe(false));
  });

  it("are never counted where that is configured", async () => {
    const simulator = await bed.simulator({ numBlocks: 48 });
    const rig = await bed.ingester([poolOfSimulator(simulator, { reuseReports: "confirm" })]);
    const everSeen = new Set<string>();
    await chats(simulator, everSeen);
    await bed.expectEqualToTruth(simulator, everSeen);
    expect(await rig.metric("kvatlas_ingester_incarnations_total")).toBe(0);
  });

  it("are not taken for what bursts of siblings and repeated prompts do", async () => {
    const simulator = await bed.simulator({ numBlocks: 96 });
    const rig = await bed.ingester([poolOfSimulator(simulator)]);
    const everSeen = new Set<string>();
    for (let i = 0; i < 8; i++) {
      const start = i * 1_000;
      // The shorter one's blocks are all that the longer one reuses, in the same step; the third is a single block, stored twice.
      await Promise.all([complete(simulator, numbers(start, 40)), complete(simulator, numbers(start, 100))]);
      await Promise.all([complete(simulator, numbers(start, 16)), complete(simulator, numbers(start, 64))]);
      for (const { hashes } of simulator.blocks()) for (const hash of Object.keys(hashes)) everSeen.add(hash);
    }
    await bed.expectEqualToTruth(simulator, everSeen);
    expect(await rig.metric("kvatlas_ingester_incarnations_total")).toBe(0);
    expect((await recordOf(bed.store, simulator.address))?.meta).toMatchObject({ reportsReuse: false, findings: {} });
  });
});
