import { decodeEventBatch } from "@kvatlas/shared/events/vllm-decoder";
import type { BlockKey } from "@kvatlas/shared/types";
import { afterEach, describe, expect, it } from "vitest";
import { eventually } from "../support/eventually.ts";
import { heldBy, memoryStore, poolOf, recordOf, startTestIngester, testConfig } from "../support/ingest-rig.ts";
import { readRecording, recordingFiles } from "../support/recordings.ts";
import { TestPublisher } from "../support/test-publisher.ts";

const address = "127.0.0.1:1";
const cleanups: (() => Promise<unknown>)[] = [];

afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

/** Batches of each engine start, live and replayed ones merged. */
const streams = recordingFiles().flatMap((file) => {
  const byStream = new Map<string, Map<number, Uint8Array>>();
  for (const frame of readRecording(file).frames) {
    const batches = byStream.get(frame.stream) ?? new Map<number, Uint8Array>();
    batches.set(Number(frame.seq), frame.payload);
    byStream.set(frame.stream, batches);
  }
  return [...byStream].map(([stream, batches]) => ({ name: `${file} ${stream}`, batches }));
});

/** Copies of every hash over all cache groups, by counting. */
function count(batches: ReadonlyMap<number, Uint8Array>): ReadonlyMap<string, number> {
  const copies = new Map<string, number>();
  for (const [, payload] of [...batches].sort(([a], [b]) => a - b)) {
    for (const event of decodeEventBatch(payload).events) {
      if (event.kind === "cleared") for (const id of copies.keys()) copies.set(id, 0);
      else {
        for (const hash of event.hashes) {
          const id = `${hash} ${event.group} ${event.medium}`;
          const before = copies.get(id) ?? 0;
          copies.set(id, event.kind === "stored" ? before + 1 : Math.max(0, before - 1));
        }
      }
    }
  }
  const sums = new Map<string, number>();
  for (const [id, number] of copies) {
    const hash = id.slice(0, 16);
    sums.set(hash, (sums.get(hash) ?? 0) + number);
  }
  return sums;
}

describe("recorded engines", () => {
  it.each(streams)("$name: the index equals the sum of its events", async ({ batches }) => {
    const publisher = await TestPublisher.start();
    cleanups.push(() => publisher.close());
    const store = memoryStore();
    const last = Math.max(...batches.keys());
    for (let seq = 0; seq <= last; seq++) {
      const payload = batches.get(seq);
      await publisher.publishRaw(payload ?? new Uint8Array(0), payload === undefined ? { vanish: true } : { lose: true });
    }
    const rig = await startTestIngester(store, testConfig([poolOf([{ address, publisher }], { onGap: "keep" })]));
    cleanups.push(() => rig.ingester.close());
    await eventually(() => expect([...rig.ingester.owned().values()]).toEqual([{ isCaughtUp: true }]));
    const truth = count(batches);
    const keys = [...truth.keys()] as BlockKey[];
    const scope = await eventually(async () => {
      const known = (await recordOf(store, address))?.meta.scope ?? null;
      if (known === null) throw new Error("the scope is not known yet");
      return known;
    });
    const spec = (await store.registry.scopes()).get(scope);
    expect(await rig.metric("kvatlas_ingester_skipped_total", { reason: "undecodable batch" })).toBe(0);
    expect(await rig.metric("kvatlas_ingester_replayed_batches_total")).toBe(batches.size);
    if (spec?.scheme.kind === "content") {
      // Random seeds: the keys are others than the hashes; every store found its parent.
      expect(await rig.metric("kvatlas_ingester_skipped_total")).toBe(0);
      return;
    }
    await eventually(async () => expect(await heldBy(store, address, keys)).toEqual([...truth.values()]));
    expect(await rig.metric("kvatlas_ingester_checked_blocks_total", { result: "equal" })).toBeGreaterThan(0);
  });
});
