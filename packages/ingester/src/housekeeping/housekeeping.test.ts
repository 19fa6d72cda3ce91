import { FakeClock } from "@kvatlas/shared/clock";
import { MemoryBlockIndex } from "@kvatlas/shared/index/memory-block-index";
import { silentLogger } from "@kvatlas/shared/logger";
import { createMetricsRegistry } from "@kvatlas/shared/metrics";
import { MemoryEndpointRegistry } from "@kvatlas/shared/registry/memory-endpoint-registry";
import type { BlockKey, EndpointId, ScopeId } from "@kvatlas/shared/types";
import { describe, expect, it } from "vitest";
import { createIngesterMetrics } from "../metrics.ts";
import { keepOrphans } from "./orphan-keeper.ts";
import { Sweeper } from "./sweeper.ts";

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

describe("keepOrphans", () => {
  const options = { instanceId: "i", leaseTtlMs: 1_000, orphanAfterMs: 60_000 };

  it("forgets a replica that is in nobody's configuration, when nobody has looked after it for long", async () => {
    const clock = new FakeClock();
    const { registry, index, held } = await fleetWith(clock);
    const deps = { registry, index, clock, logger: silentLogger, isKnown: () => false, adopt: () => false };
    clock.advance(59_000);
    await keepOrphans(deps, options);
    expect(await held()).toBe(10);
    clock.advance(2_000);
    await keepOrphans({ ...deps, isKnown: () => true }, options);
    expect(await held()).toBe(10);
    await keepOrphans(deps, options);
    expect(await held()).toBe(0);
    expect(await registry.endpoints()).toEqual([]);
  });

  it("leaves alone what another instance holds", async () => {
    const clock = new FakeClock();
    const { registry, index, lease, held } = await fleetWith(clock);
    clock.advance(61_000);
    expect(await registry.acquire(endpoint, lease.owner, 10_000)).not.toBeNull();
    await keepOrphans({ registry, index, clock, logger: silentLogger, isKnown: () => false, adopt: () => false }, options);
    expect(await held()).toBe(10);
  });

  it("adopts a replica that dialled an ingester which is gone", async () => {
    const clock = new FakeClock();
    const { registry, index, held } = await fleetWith(clock);
    clock.advance(61_000);
    const adopted: string[] = [];
    const adopt = ({ id }: { readonly id: string }) => adopted.push(id) > 0;
    await keepOrphans({ registry, index, clock, logger: silentLogger, isKnown: () => false, adopt }, options);
    expect([adopted, await held()]).toEqual([[endpoint], 10]);
  });
});

describe("Sweeper", () => {
  it("walks a scope in slices after an incarnation has ended, and then rests", async () => {
    const { registry, index, begin } = await fleetWith(new FakeClock());
    const metrics = createIngesterMetrics(createMetricsRegistry("test", { processMetrics: false }));
    const slices: string[] = [];
    const counting = {
      sweep: (id: ScopeId, cursor: string, limit: number) => {
        slices.push(cursor);
        return index.sweep(id, cursor, limit);
      },
    };
    let isMine = false;
    const sweeper = new Sweeper({ registry, index: counting, logger: silentLogger, metrics, isMine: () => isMine }, { blocksPerStep: 4 });
    await sweeper.step();
    expect(slices).toEqual([]);
    isMine = true;
    for (let i = 0; i < 10; i++) await sweeper.step();
    const walked = slices.length;
    expect(walked).toBeGreaterThan(2);
    const swept = async () => (await metrics.swept.get()).values[0]?.value;
    expect(await swept()).toBe(0);
    await begin();
    for (let i = 0; i < 10; i++) await sweeper.step();
    const walkedTwice = slices.length;
    expect(walkedTwice).toBeGreaterThan(walked);
    expect(await swept()).toBe(keys.length);
    for (let i = 0; i < 10; i++) await sweeper.step();
    expect(slices.length).toBe(walkedTwice);
  });
});
