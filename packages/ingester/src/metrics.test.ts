import { Registry } from "prom-client";
import { describe, expect, it } from "vitest";
import { createIngesterMetrics } from "./metrics.ts";

describe("findings of endpoints", () => {
  it("appear, and disappear when they are withdrawn or the endpoint leaves", async () => {
    const registry = new Registry();
    const metrics = createIngesterMetrics(registry);
    const shown = async () =>
      (await registry.getSingleMetricAsString("kvatlas_ingester_endpoint_findings")).split("\n").filter((line) => !line.startsWith("#"));
    metrics.showFindings("a:1", ["no-events", "health"]);
    metrics.showFindings("b:1", ["replay"]);
    metrics.showFindings("a:1", ["health"]);
    expect(await shown()).toEqual([
      'kvatlas_ingester_endpoint_findings{endpoint="a:1",finding="health"} 1',
      'kvatlas_ingester_endpoint_findings{endpoint="b:1",finding="replay"} 1',
    ]);
    metrics.forgetEndpoint("a:1");
    metrics.showFindings("b:1", []);
    expect(await shown()).toEqual([]);
  });
});
