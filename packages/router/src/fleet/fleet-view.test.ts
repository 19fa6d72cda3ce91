import { FakeClock } from "@kvatlas/shared/clock";
import { configSchema } from "@kvatlas/shared/config/schema";
import { silentLogger } from "@kvatlas/shared/logger";
import { MemoryEndpointRegistry } from "@kvatlas/shared/registry/memory-endpoint-registry";
import type { EndpointId } from "@kvatlas/shared/types";
import { afterEach, describe, expect, it } from "vitest";
import { FleetView } from "./fleet-view.ts";

const { pools } = configSchema.parse({ pools: [{ name: "pool", model: "m" }] });
const views: FleetView[] = [];

afterEach(async () => {
  await Promise.all(views.splice(0).map((view) => view.close()));
});

/** A view over a real registry that can be switched off; nothing refreshes by itself. */
async function setup() {
  const clock = new FakeClock();
  const registry = new MemoryEndpointRegistry({ clock });
  const state = { gone: false, empty: false };
  const view = new FleetView(
    {
      registry: {
        endpoints: async () => {
          if (state.gone) throw new Error("gone");
          return state.empty ? [] : registry.endpoints();
        },
        scopes: () => registry.scopes(),
        instances: (...args) => registry.instances(...args),
        beat: (...args) => registry.beat(...args),
        leave: (...args) => registry.leave(...args),
        onChange: () => () => {},
      },
      clock,
      logger: silentLogger,
    },
    { routerId: "me", pools, endpointTtlMs: 15_000, pollIntervalMs: 1_000_000 },
  );
  views.push(view);
  const lease = await registry.acquire("x:1" as EndpointId, "owner", 1_000_000);
  if (lease === null) throw new Error("no lease");
  const beat = () => registry.describe(lease, { address: "x:1", pool: "pool", ready: true }, clock.now());
  await beat();
  await view.start();
  const isReady = () => view.snapshot.pools[0]?.endpoints[0]?.ready;
  return { clock, view, state, beat, isReady };
}

describe("FleetView", () => {
  it("lets endpoints that nobody reports age", async () => {
    const { clock, view, isReady, beat } = await setup();
    expect(isReady()).toBe(true);
    clock.advance(16_000);
    await view.refresh();
    expect(isReady()).toBe(false);
    await beat();
    await view.refresh();
    expect(isReady()).toBe(true);
  });

  it("lets nothing age while the registry cannot be read, nor right after it came back", async () => {
    const { clock, view, state, isReady } = await setup();
    state.gone = true;
    clock.advance(60_000);
    await view.refresh();
    expect(view.snapshot.registryReachable).toBe(false);
    expect(isReady()).toBe(true);

    state.gone = false;
    await view.refresh();
    expect(view.snapshot.registryReachable).toBe(true);
    expect(isReady()).toBe(true);
    clock.advance(16_000);
    await view.refresh();
    expect(isReady()).toBe(false);
  });

  it("keeps what it knew for a while when the registry comes back empty", async () => {
    const { clock, view, state, isReady } = await setup();
    state.gone = true;
    await view.refresh();
    state.gone = false;
    state.empty = true;
    await view.refresh();
    expect(isReady()).toBe(true);
    clock.advance(16_000);
    await view.refresh();
    expect(view.snapshot.pools[0]?.endpoints).toEqual([]);
  });

  it("counts itself among the routers, and says goodbye", async () => {
    const { view } = await setup();
    expect(view.snapshot.routers).toEqual(["me"]);
  });
});
