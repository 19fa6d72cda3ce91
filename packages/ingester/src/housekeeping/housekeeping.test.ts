import { FakeClock, systemClock } from "@kvatlas/shared/clock";
import { chainOf } from "@kvatlas/shared/index/block-index.contract";
import { MemoryBlockIndex } from "@kvatlas/shared/index/memory-block-index";
import { silentLogger } from "@kvatlas/shared/logger";
import { MemoryEndpointRegistry } from "@kvatlas/shared/registry/memory-endpoint-registry";
import { MemoryHousekeepingRecords } from "@kvatlas/shared/registry/memory-housekeeping-records";
import type { BlockKey, EndpointId, ScopeId } from "@kvatlas/shared/types";
import { describe, expect, it } from "vitest";
import { adoptIdle } from "./adopt-idle.ts";
import { forgetDeparted } from "./forget-departed.ts";
import { purgeIndex } from "./purge-index.ts";
import { serveRebuilds } from "./serve-rebuilds.ts";

const scope = "s" as ScopeId;
const endpoint = "10.0.0.1:8000" as EndpointId;
const keys = Array.from({ length: 10 }, (_, i) => i.toString(16).padStart(16, "0") as BlockKey);

async function fleetWith(clock: FakeClock) {
  const registry = new MemoryEndpointRegistry({ clock });
  const index = new MemoryBlockIndex();
  await registry.ensureScope(scope, { model: "m", blockSizeTokens: 16, scheme: { kind: "content", seed: "" } });
  const lease = await registry.acquire(endpoint, "former", 1_000);
  if (lease === null) throw new Error("nobody else holds it");
  await registry.describe(lease, { address: endpoint, model: "m", scope }, clock.now());
  const begin = async () => {
    const incarnation = (await registry.startIncarnation(lease, 0)) ?? 0;
    return index.openWriter({ scope, endpoint, incarnation, from: 0, fence: lease.fence });
  };
  const writer = await begin();
  await writer.apply([{ seq: 0, ops: [{ op: "store", medium: "gpu", group: 0, keys }] }]);
  const held = async () => (await index.lookup([{ scope, keys }]))[0]?.get(endpoint)?.blocks ?? 0;
  return { registry, index, lease, begin, held };
}

const never = new AbortController().signal;

describe("forgetDeparted", () => {
  const options = { instanceId: "i", leaseTtlMs: 1_000, departedAfterMs: 60_000 };

  it("forgets a replica that is in nobody's configuration, when nobody has looked after it for long", async () => {
    const clock = new FakeClock();
    const { registry, index, held } = await fleetWith(clock);
    const records = new MemoryHousekeepingRecords();
    const deps = { registry, index, records, clock, logger: silentLogger, isKnown: () => false };
    clock.advance(59_000);
    expect(await forgetDeparted(deps, options, never)).toEqual([]);
    clock.advance(2_000);
    expect(await forgetDeparted({ ...deps, isKnown: () => true }, options, never)).toEqual([]);
    expect(await held()).toBe(10);
    expect(await forgetDeparted(deps, options, never)).toEqual([endpoint]);
    expect(await held()).toBe(0);
    expect(await registry.endpoints()).toEqual([]);
    expect(await forgetDeparted(deps, options, never)).toEqual([]);
  });

  it("leaves alone what another instance holds", async () => {
    const clock = new FakeClock();
    const { registry, index, lease, held } = await fleetWith(clock);
    clock.advance(61_000);
    expect(await registry.acquire(endpoint, lease.owner, 10_000)).not.toBeNull();
    const records = new MemoryHousekeepingRecords();
    await forgetDeparted({ registry, index, records, clock, logger: silentLogger, isKnown: () => false }, options, never);
    expect(await held()).toBe(10);
  });

  it("does the rest of what a run that was killed has begun", async () => {
    const clock = new FakeClock();
    const { registry, index, held } = await fleetWith(clock);
    clock.advance(61_000);
    const records = new MemoryHousekeepingRecords();
    const deps = { registry, index, records, clock, logger: silentLogger, isKnown: () => false };
    const killed = {
      endpoints: () => registry.endpoints(),
      acquire: () => registry.acquire(endpoint, "killed", 1_000),
      release: () => Promise.reject(new Error("killed")),
      remove: () => Promise.reject(new Error("killed")),
    };
    await expect(forgetDeparted({ ...deps, registry: killed }, options, never)).rejects.toThrow("killed");
    expect(await forgetDeparted(deps, options, never)).toEqual([]);
    clock.advance(1_001);
    expect(await forgetDeparted(deps, options, never)).toEqual([endpoint]);
    expect([await held(), await registry.endpoints()]).toEqual([0, []]);
  });
});

describe("adoptIdle", () => {
  it("takes in a replica that dialled an ingester which is gone", async () => {
    const clock = new FakeClock();
    const { registry } = await fleetWith(clock);
    const adopted: string[] = [];
    const deps = { registry, clock, adopt: ({ id }: { readonly id: string }) => void adopted.push(id) };
    await adoptIdle({ ...deps, isKnown: () => false }, { afterMs: 2_000 });
    clock.advance(2_000);
    await adoptIdle({ ...deps, isKnown: () => true }, { afterMs: 2_000 });
    expect(adopted).toEqual([]);
    await adoptIdle({ ...deps, isKnown: () => false }, { afterMs: 2_000 });
    expect(adopted).toEqual([endpoint]);
  });
});

describe("purgeIndex", () => {
  const fast = { blocksPerSecond: 1_000_000, maxRunMs: 60_000 };

  /** A fleet with more dead entries than fit a slice; counts slices and what they drop. */
  async function deadFleet() {
    const clock = new FakeClock();
    const fleet = await fleetWith(clock);
    const many = Array.from({ length: 2_200 }, (_, i) => (i + 100).toString(16).padStart(16, "0") as BlockKey);
    const writer = await fleet.begin();
    await writer.apply([{ seq: 0, ops: [{ op: "store", medium: "gpu", group: 0, keys: many }] }]);
    await fleet.begin();
    const records = new MemoryHousekeepingRecords();
    const seen = { slices: 0, dropped: 0 };
    const onSlice = (_: number, dropped: number) => {
      seen.slices += 1;
      seen.dropped += dropped;
    };
    return { ...fleet, clock, records, seen, deps: { ...fleet, records, clock: systemClock, onSlice } };
  }

  it("walks a scope in slices after an incarnation has ended, and then rests", async () => {
    const { deps, seen, begin } = await deadFleet();
    expect(await purgeIndex(deps, fast, never)).toEqual({ isDone: true });
    expect(seen).toEqual({ slices: 12, dropped: 2_210 });
    await purgeIndex(deps, fast, never);
    expect(seen.slices).toBe(12);
    await begin();
    await purgeIndex(deps, fast, never);
    expect(seen.slices).toBe(13);
  });

  it("goes on where a run has ended, whether its time was up or it was killed", async () => {
    const { deps, seen, records } = await deadFleet();
    const cursors: string[] = [];
    const index = {
      reclaim: (used: ReadonlySet<ScopeId>) => deps.index.reclaim(used),
      sweep: (id: ScopeId, cursor: string, limit: number) => {
        cursors.push(cursor);
        if (cursors.length === 3) throw new Error("killed");
        return deps.index.sweep(id, cursor, limit);
      },
    };
    await expect(purgeIndex({ ...deps, index }, fast, never)).rejects.toThrow("killed");
    expect([...(await records.progress()).values()].map((text) => JSON.parse(text))).toEqual([
      { done: null, walk: { of: expect.any(String), cursor: cursors[2] } },
    ]);
    expect(await purgeIndex({ ...deps, index }, { ...fast, maxRunMs: 0 }, never)).toEqual({ isDone: false });
    expect(await purgeIndex({ ...deps, index }, fast, never)).toEqual({ isDone: true });
    expect(cursors[3]).toBe(cursors[2]);
    expect(seen.dropped).toBe(2_210);
  });

  it("walks again when an incarnation has ended during the walk, and forgets scopes that are gone", async () => {
    const { deps, seen, begin, records } = await deadFleet();
    await records.saveProgress("sweep gone", "{}");
    await records.saveProgress(`sweep ${scope}`, "not even JSON");
    let begun = false;
    const onSlice = async (_: number, dropped: number) => {
      seen.dropped += dropped;
      if (!begun) {
        begun = true;
        await begin();
      }
    };
    await purgeIndex({ ...deps, onSlice: (examined, dropped) => void onSlice(examined, dropped) }, fast, never);
    await purgeIndex(deps, fast, never);
    expect(seen.dropped).toBe(2_210);
    expect([...(await records.progress()).keys()]).toEqual([`sweep ${scope}`]);
  });

  it("walks for an endpoint that came and was forgotten between two walks, too", async () => {
    const { deps, seen, records, clock } = await deadFleet();
    await purgeIndex(deps, fast, never);
    const before = seen.dropped;
    const guest = "10.0.0.99:8000" as EndpointId;
    const lease = await deps.registry.acquire(guest, "gone", 1_000);
    if (lease === null) throw new Error("nobody else holds it");
    const [known] = await deps.registry.endpoints();
    await deps.registry.describe(lease, { scope: known?.meta.scope ?? null }, clock.now());
    const incarnation = (await deps.registry.startIncarnation(lease, 0)) ?? 0;
    const writer = await deps.index.openWriter({ scope, endpoint: guest, incarnation, from: 0, fence: lease.fence });
    await writer.apply([{ seq: 0, ops: [{ op: "store", medium: "gpu", group: 0, keys: chainOf(5, 30) }] }]);
    clock.advance(120_000);
    const forgetting = { ...deps, records, clock, logger: silentLogger, isKnown: (endpoint: EndpointId) => endpoint !== guest };
    expect(await forgetDeparted(forgetting, { instanceId: "i", leaseTtlMs: 1_000, departedAfterMs: 60_000 }, never)).toEqual([guest]);
    await purgeIndex(deps, fast, never);
    expect(seen.dropped - before).toBe(30);
  });

  it("ends soon after its signal", async () => {
    const { deps } = await deadFleet();
    const abort = new AbortController();
    const running = purgeIndex({ ...deps, onSlice: () => abort.abort() }, { ...fast, blocksPerSecond: 1 }, abort.signal);
    await expect(running).rejects.toMatchObject({ name: "AbortError" });
  });
});

describe("serveRebuilds", () => {
  it("asks the owner once, and withdraws the request when a later incarnation is there", async () => {
    const records = new MemoryHousekeepingRecords();
    const rebuilt: number[] = [];
    const owned = { incarnation: 4, rebuild: () => void rebuilt.push(owned.incarnation) };
    let isOwned = false;
    const deps = { records, logger: silentLogger, ownedHere: () => (isOwned ? owned : null), onRebuild: () => {} };
    await records.requestRebuild({ endpoint, incarnation: 4, reason: "phantoms" });
    await serveRebuilds(deps);
    expect(rebuilt).toEqual([]);
    isOwned = true;
    await serveRebuilds(deps);
    owned.incarnation = 5;
    await serveRebuilds(deps);
    expect([rebuilt, await records.rebuildRequests()]).toEqual([[4], []]);
  });
});
