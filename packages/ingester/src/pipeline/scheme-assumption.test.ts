import { FakeClock } from "@kvatlas/shared/clock";
import { storedEvent } from "@kvatlas/shared/events/stored-event.fixture";
import { type HashAlgorithm, type NativeScheme, scopeIdOf } from "@kvatlas/shared/hashing/key-scheme";
import { MemoryEndpointRegistry } from "@kvatlas/shared/registry/memory-endpoint-registry";
import type { EndpointId, EngineHash } from "@kvatlas/shared/types";
import { describe, expect, it } from "vitest";
import { FleetSchemes, type KnownScheme } from "./fleet-schemes.ts";
import { assumedScheme, type SchemeEvidence } from "./scheme-assumption.ts";

const native = (algorithm: HashAlgorithm, seed: string): NativeScheme => ({ kind: "native", algorithm, seed });
const own = "10.0.0.1:8000" as EndpointId;
const known = (endpoint: string, scheme: NativeScheme, more: Partial<KnownScheme> = {}): KnownScheme => ({
  endpoint: endpoint as EndpointId,
  pool: "p",
  model: "m",
  scheme,
  blockSizeTokens: 16,
  extrasForm: null,
  processStartSeconds: null,
  ...more,
});
const store = storedEvent(
  {
    hashes: ["00000000000000aa" as EngineHash],
    parent: "00000000000000bb" as EngineHash,
    tokenIds: Array.from({ length: 16 }, (_, i) => i),
  },
  { blockSizeTokens: 16, extraKeys: [null] },
);
const evidence = (more: Partial<SchemeEvidence> = {}): SchemeEvidence => ({
  endpoint: own,
  processStartSeconds: 100,
  engineAlgorithm: "sha256",
  algorithm: null,
  seed: null,
  fleet: [],
  stores: [store],
  testimonyOf: () => "nothing",
  ...more,
});
const chosen = (more: Partial<SchemeEvidence>): NativeScheme | null => assumedScheme(evidence(more))?.scheme ?? null;

describe("what an endpoint is taken for without a store from the root", () => {
  const usual = [known("a", native("sha256", "7")), known("b", native("sha256", "7")), known("c", native("sha256", "0"))];

  it("is what most of its pool are, where the engine names the algorithm", () => {
    expect(chosen({ fleet: [...usual].reverse() })).toEqual(native("sha256", "7"));
    expect(chosen({ fleet: usual, engineAlgorithm: null, algorithm: "sha256" })).toEqual(native("sha256", "7"));
  });

  it("is nothing where nobody vouches for the algorithm, or the engine names another one", () => {
    expect(chosen({ fleet: usual, engineAlgorithm: null })).toBeNull();
    expect(chosen({ fleet: usual, engineAlgorithm: "xxhash", algorithm: "sha256" })).toBeNull();
    expect(chosen({ fleet: usual, engineAlgorithm: "blake3", algorithm: "sha256" })).toBeNull();
  });

  it("is never what a store speaks against, and what one speaks for needs no other voucher", () => {
    expect(chosen({ fleet: usual, testimonyOf: () => "against" })).toBeNull();
    expect(chosen({ fleet: usual, engineAlgorithm: null, testimonyOf: (_, { seed }) => (seed === "0" ? "for" : "against") })).toEqual(
      native("sha256", "0"),
    );
  });

  it("is first what the same process was", () => {
    const fleet = [...usual, known(own, native("xxhash", "9"), { processStartSeconds: 100 })];
    expect(chosen({ fleet, engineAlgorithm: null })).toEqual(native("xxhash", "9"));
    // Another process at the same address may be another engine.
    expect(chosen({ fleet, engineAlgorithm: null, processStartSeconds: 101 })).toBeNull();
    expect(chosen({ fleet, engineAlgorithm: null, processStartSeconds: null })).toBeNull();
  });

  it("is what is configured in full, but no seed is guessed", () => {
    expect(chosen({ seed: "5" })).toEqual(native("sha256", "5"));
    expect(chosen({ engineAlgorithm: null, algorithm: "xxhash", seed: "5" })).toEqual(native("xxhash", "5"));
    expect(chosen({})).toBeNull();
  });

  it("has blocks that the engine's consist of", () => {
    expect(chosen({ fleet: [known("a", native("sha256", "7"), { blockSizeTokens: 32 })] })).toBeNull();
    expect(assumedScheme(evidence({ fleet: [known("a", native("sha256", "7"), { blockSizeTokens: 8 })] }))?.blockSizeTokens).toBe(8);
    expect(chosen({ fleet: usual, stores: [] })).toBeNull();
  });
});

describe("FleetSchemes", () => {
  it("joins what the process has learned with what the registry says, by pool and model", async () => {
    const clock = new FakeClock();
    const registry = new MemoryEndpointRegistry();
    const schemes = new FleetSchemes({ registry, clock });
    const spec = { model: "m", blockSizeTokens: 16, scheme: native("sha256", "7") };
    const scope = scopeIdOf(spec);
    await registry.ensureScope(scope, spec);
    const lease = await registry.acquire("b" as EndpointId, "i", 1_000);
    if (lease === null) throw new Error("nobody else has it");
    await registry.describe(lease, { pool: "p", model: "m", scope, processStartSeconds: 5 }, clock.now());
    schemes.learned(known("a", native("sha256", "1")));
    expect(await schemes.of("p", "m")).toEqual([
      known("a", native("sha256", "1")),
      known("b", native("sha256", "7"), { processStartSeconds: 5 }),
    ]);
    expect(await schemes.of("p", "other")).toEqual([]);
    expect(await schemes.of("other", "m")).toEqual([]);
  });
});
