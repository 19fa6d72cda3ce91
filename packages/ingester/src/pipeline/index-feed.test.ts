import { FakeClock } from "@kvatlas/shared/clock";
import { MemoryBlockIndex } from "@kvatlas/shared/index/memory-block-index";
import { silentLogger } from "@kvatlas/shared/logger";
import type { BlockKey, EndpointId, ScopeId } from "@kvatlas/shared/types";
import { Registry } from "prom-client";
import { expect, it } from "vitest";
import { createIngesterMetrics } from "../metrics.ts";
import { type FedBatch, IndexFeed } from "./index-feed.ts";

function batch(seq: number): FedBatch {
  return { seq, receivedAt: null, ops: [{ op: "store", medium: "gpu", group: 0, keys: [`${seq}`.padStart(16, "0") as BlockKey] }] };
}

it("brings small batches in that come one after another for long: a replay that breaks off has not been for nothing", async () => {
  const clock = new FakeClock();
  const target = { scope: "s" as ScopeId, endpoint: "e" as EndpointId, incarnation: 1, from: 0, fence: 1 };
  const writer = await new MemoryBlockIndex().openWriter(target);
  const options = { maxBatchOps: 500, flushIntervalMs: 2, signal: new AbortController().signal, onFailure: () => {}, onWritten: () => {} };
  const feed = new IndexFeed({ clock, logger: silentLogger, metrics: createIngesterMetrics(new Registry()) }, options, writer);
  expect(feed.add(batch(0))).toBeUndefined();
  clock.advance(1);
  expect(feed.add(batch(1))).toBeUndefined();
  clock.advance(1);
  await feed.add(batch(2));
  // Further batches gather while the write is under way.
  expect(feed.add(batch(3))).toBeUndefined();
  clock.advance(10);
  expect(feed.add(batch(4))).toBeUndefined();
  await feed.discard();
  expect(writer.applied).toBe(2);
});
