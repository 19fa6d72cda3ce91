import { describe, expect, it } from "vitest";
import { readObjective, readPolicy, readPoolAlpha, readPoolV1 } from "./inference-objects.ts";
import { trackingOf } from "./namespace-objects.ts";

const metadata = { name: "x", namespace: "ns", uid: "u", creationTimestamp: "2026-01-01T00:00:00Z" };
const poolRef = { name: "qwen" };

describe("an InferencePool", () => {
  it("of v1", () => {
    const spec = {
      selector: { matchLabels: { b: "2", a: "1" } },
      targetPorts: [{ number: 8000 }, { number: 8001 }, { number: 0 }, { number: "x" }],
      endpointPickerRef: { name: "epp", port: { number: 9002 } },
    };
    expect(readPoolV1({ metadata, spec })).toEqual({
      name: "x",
      labelSelector: "a=1,b=2",
      targetPorts: [8000, 8001],
      isLeaving: false,
      routingStrategy: null,
      endpointPicker: "ns/epp:9002",
    });
  });

  it("of v1alpha2: flat selector, one port, the picker's default port", () => {
    const spec = { selector: { app: "vllm" }, targetPortNumber: 8000, extensionRef: { name: "epp" } };
    expect(readPoolAlpha({ metadata, spec })).toMatchObject({
      labelSelector: "app=vllm",
      targetPorts: [8000],
      endpointPicker: "ns/epp:9002",
    });
  });

  it("on its way out, with a strategy", () => {
    const annotations = { "inference.networking.x-k8s.io/routing-strategy": "PREFIX_CACHE" };
    const leaving = { ...metadata, annotations, deletionTimestamp: "2026-01-01T00:00:00Z" };
    expect(readPoolV1({ metadata: leaving, spec: { selector: { matchLabels: {} } } })).toMatchObject({
      isLeaving: true,
      routingStrategy: "PREFIX_CACHE",
      endpointPicker: null,
    });
  });

  it("without a selector, or none at all, is none", () => {
    for (const odd of [{}, null, { metadata }, { metadata, spec: {} }]) expect(readPoolV1(odd)).toBeNull();
  });
});

describe("how prefixes are tracked", () => {
  const pool = { name: "qwen", labelSelector: "", targetPorts: [], isLeaving: false, routingStrategy: null, endpointPicker: null };
  const spec = {
    poolRef,
    profile: {
      single: {
        trafficPolicy: {
          prefixCache: {
            mode: "tracking",
            trackingConfig: { indexerConfig: { tokenProcessorConfig: { blockSize: 64, hashSeed: "42" } }, model: "m" },
          },
        },
      },
    },
  };
  const policy = readPolicy({ metadata, spec });

  it("is read from the policy", () => {
    expect(policy).toEqual({ name: "x", pool: "qwen", mode: "tracking", blockSize: 64, hashSeed: "42", model: "m" });
  });

  it("a policy wins over the annotation", () => {
    if (policy === null) throw new Error("no policy");
    expect(trackingOf({ ...pool, routingStrategy: "PREFIX_CACHE" }, [policy])).toEqual({
      prefixCache: { mode: "precise", blockSize: 64, hashSeed: "42", from: "InferenceTrafficPolicy x" },
      problems: [],
    });
  });

  it("the annotation alone means estimates; one that is unknown is a problem", () => {
    expect(trackingOf({ ...pool, routingStrategy: "PREFIX_CACHE" }, []).prefixCache?.mode).toBe("estimated");
    expect(trackingOf({ ...pool, routingStrategy: "MAGIC" }, [])).toMatchObject({
      prefixCache: null,
      problems: [expect.stringContaining("MAGIC")],
    });
    expect(trackingOf(pool, [])).toEqual({ prefixCache: null, problems: [] });
  });

  it("of two policies the first by name counts, and the other is named", () => {
    if (policy === null) throw new Error("no policy");
    const { prefixCache, problems } = trackingOf(pool, [policy, { ...policy, name: "y", blockSize: 16 }]);
    expect(prefixCache?.blockSize).toBe(64);
    expect(problems).toEqual([expect.stringContaining("InferenceTrafficPolicy y")]);
  });

  it("a seed that is a number is the same seed; a size that cannot be is none", () => {
    const tokenProcessorConfig = { hashSeed: 42, blockSize: -1 };
    const prefixCache = { mode: "tracking", trackingConfig: { indexerConfig: { tokenProcessorConfig } } };
    const odd = { poolRef, profile: { single: { trafficPolicy: { prefixCache } } } };
    expect(readPolicy({ metadata, spec: odd })).toMatchObject({ hashSeed: "42", blockSize: null });
  });
});

describe("an objective", () => {
  it("has a priority, 0 when it is left out", () => {
    expect(readObjective({ metadata, spec: { poolRef, priority: -5 } })).toEqual({ name: "x", pool: "qwen", priority: -5 });
    expect(readObjective({ metadata, spec: { poolRef } })?.priority).toBe(0);
    expect(readObjective({ metadata, spec: {} })?.pool).toBe("");
    expect(readObjective({ metadata: { ...metadata, deletionTimestamp: "2026-01-01T00:00:00Z" }, spec: { poolRef } })).toBeNull();
  });
});
