import { configSchema } from "@kvatlas/shared/config/schema";
import type { EndpointRecord } from "@kvatlas/shared/registry/endpoint-registry";
import type { EndpointId } from "@kvatlas/shared/types";
import { describe, expect, it } from "vitest";
import { routeOfModel, servedModels } from "./fleet.ts";
import { mergeFleet } from "./merge-fleet.ts";

const { pools } = configSchema.parse({
  pools: [
    { name: "one", model: "m1", endpoints: { static: [{ address: "b:1" }, { address: "a:1", dataParallelSize: 2 }] } },
    { name: "two", model: "m2" },
  ],
});

function record(id: string, heartbeat: number, meta: Partial<EndpointRecord["meta"]> = {}): EndpointRecord {
  return {
    id: id as EndpointId,
    heartbeat,
    meta: {
      address: id.split("/")[0] ?? id,
      pool: "two",
      model: "",
      rank: 0,
      scope: null,
      extrasForm: null,
      lookaheadTokens: 0,
      groups: [],
      loras: {},
      ready: true,
      processStartSeconds: null,
      findings: {},
      ...meta,
    },
    state: { incarnation: 1, from: 0, owner: null, fence: 1 },
  };
}

const merge = (records: readonly EndpointRecord[], change: { readonly nowMs?: number; readonly silenceFromMs?: number } = {}) =>
  mergeFleet({ pools, records, nowMs: 100_000, endpointTtlMs: 15_000, silenceFromMs: 0, ...change });

const statesOf = (fleet: ReturnType<typeof merge>, pool: number) =>
  fleet[pool]?.endpoints.map(({ id, ready, status }) => [id, ready, status]);

describe("mergeFleet", () => {
  it("has the configured endpoints, ranks included, before anybody reports them", () => {
    expect(statesOf(merge([]), 0)).toEqual([
      ["a:1", true, "unobserved"],
      ["a:1/1", true, "unobserved"],
      ["b:1", true, "unobserved"],
    ]);
    expect(merge([])[0]?.endpoints.map(({ ranked }) => ranked)).toEqual([true, true, false]);
  });

  it("believes the registry while it is fresh", () => {
    const fleet = merge([
      record("b:1", 99_000, { pool: "one", ready: false }),
      record("x:1", 99_000),
      record("y:1", 99_000, { ready: false }),
    ]);
    expect(statesOf(fleet, 0)?.[2]).toEqual(["b:1", false, "not-ready"]);
    expect(statesOf(fleet, 1)).toEqual([
      ["x:1", true, "ready"],
      ["y:1", false, "not-ready"],
    ]);
  });

  it("gives up silent endpoints, except configured ones", () => {
    const fleet = merge([record("b:1", 10_000, { pool: "one", ready: false }), record("x:1", 10_000)]);
    expect(statesOf(fleet, 0)?.[2]).toEqual(["b:1", true, "silent"]);
    expect(statesOf(fleet, 1)).toEqual([["x:1", false, "silent"]]);
  });

  it("counts no silence during an outage of the registry", () => {
    expect(statesOf(merge([record("x:1", 10_000)], { silenceFromMs: 95_000 }), 1)).toEqual([["x:1", true, "ready"]]);
  });

  it("goes by the model where the pool's name is unknown, and leaves strangers out", () => {
    const fleet = merge([record("x:1", 99_000, { pool: "gone", model: "m2" }), record("z:1", 99_000, { pool: "gone", model: "other" })]);
    expect(statesOf(fleet, 1)).toEqual([["x:1", true, "ready"]]);
  });
});

describe("roles", () => {
  it("are those of the configuration, for further ranks that replicas tell of as well", () => {
    const { pools: configured } = configSchema.parse({
      pools: [{ name: "two", model: "m2", endpoints: { static: [{ address: "a:1", role: "prefill" }, { address: "b:1" }] } }],
    });
    const records = [record("a:1/1", 99_000, { rank: 1 }), record("c:1", 99_000)];
    const [pool] = mergeFleet({ pools: configured, records, nowMs: 100_000, endpointTtlMs: 15_000, silenceFromMs: 0 });
    expect(pool?.endpoints.map(({ id, role }) => [id, role])).toEqual([
      ["a:1", "prefill"],
      ["a:1/1", "prefill"],
      ["b:1", null],
      ["c:1", null],
    ]);
  });
});

describe("routeOfModel", () => {
  const snapshot = (records: readonly EndpointRecord[]) => ({
    pools: merge(records),
    scopes: new Map(),
    routers: [],
    registryReachable: true,
  });

  it("finds pools by model, and adapters where they are loaded", () => {
    const fleet = snapshot([record("x:1", 99_000, { loras: { tuned: "/p" } }), record("y:1", 99_000)]);
    expect(routeOfModel(fleet, "m2")?.endpoints).toHaveLength(2);
    expect(routeOfModel(fleet, "tuned")).toMatchObject({ lora: "tuned", endpoints: [{ id: "x:1" }] });
    expect(routeOfModel(fleet, "unknown")).toBeNull();
    expect(routeOfModel(fleet, "toString")).toBeNull();
    expect(routeOfModel(fleet, null)).toBeNull();
    expect(servedModels(fleet).map(({ id, parent }) => [id, parent])).toEqual([
      ["m1", null],
      ["m2", null],
      ["tuned", "m2"],
    ]);
  });
});
