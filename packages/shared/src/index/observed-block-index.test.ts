import { Registry } from "prom-client";
import { describe, expect, it } from "vitest";
import { FakeClock } from "../clock.ts";
import type { EndpointId, ScopeId } from "../types.ts";
import { blockIndexContract, chainOf } from "./block-index.contract.ts";
import { MemoryBlockIndex } from "./memory-block-index.ts";
import { createBlockIndexMetrics, createObservedBlockIndex } from "./observed-block-index.ts";

describe("an observed index", () => {
  blockIndexContract(async () =>
    createObservedBlockIndex({ index: new MemoryBlockIndex(), metrics: createBlockIndexMetrics(new Registry()) }),
  );

  it("counts calls by operation and outcome", async () => {
    const registry = new Registry();
    const index = createObservedBlockIndex({
      index: new MemoryBlockIndex(),
      metrics: createBlockIndexMetrics(registry),
      clock: new FakeClock(),
    });
    const target = { scope: "s" as ScopeId, endpoint: "e:1" as EndpointId, incarnation: 1, from: 0, fence: 2 };
    const writer = await index.openWriter(target);
    await writer.apply([{ seq: 0, ops: [] }]);
    await expect(index.openWriter({ ...target, fence: 1 })).rejects.toMatchObject({ code: "KVATLAS_INDEX_FENCED" });
    await index.lookup([
      { scope: target.scope, keys: chainOf(1, 5) },
      { scope: target.scope, keys: [] },
    ]);
    const text = await registry.metrics();
    expect(text).toContain('kvatlas_index_call_seconds_count{operation="open",outcome="ok"} 1');
    expect(text).toContain('kvatlas_index_call_seconds_count{operation="open",outcome="KVATLAS_INDEX_FENCED"} 1');
    expect(text).toContain('kvatlas_index_call_seconds_count{operation="apply",outcome="ok"} 1');
    expect(text).toContain('kvatlas_index_call_seconds_count{operation="lookup",outcome="ok"} 1');
    expect(text).toContain("kvatlas_index_lookup_keys_sum 5");
  });
});
