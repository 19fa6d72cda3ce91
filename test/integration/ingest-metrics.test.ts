import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { eventually } from "../support/eventually.ts";
import { IngestBed, joined } from "../support/ingest-bed.ts";
import { cleared, memoryStore, poolOf, TestPrompt } from "../support/ingest-rig.ts";
import { pausable } from "../support/pausable-store.ts";
import { TcpProxy } from "../support/tcp-proxy.ts";

const address = "127.0.0.1:1";
const portOf = (endpoint: string): number => Number(endpoint.split(":").at(-1));
let bed: IngestBed;
beforeEach(() => {
  bed = new IngestBed();
});
afterEach(() => bed.close());

describe("what an ingester shows of itself", () => {
  it("moves: events and blocks by kind, gaps, replays, flushes, incarnations, leases", async () => {
    const publisher = await bed.publisher();
    const rig = await bed.ingester([poolOf([{ address, publisher }])]);
    await joined(publisher, rig);
    const [first, second] = [new TestPrompt(1, 3), new TestPrompt(2, 2)];
    await publisher.publish([first.stored()]);
    await publisher.publish([first.removed(2)], { lose: true });
    await publisher.publish([first.removed(2)]);
    await eventually(async () => expect(await rig.metric("kvatlas_ingester_unknown_removals_total")).toBe(1));
    await publisher.publish([{ type: "BlockInvented" }, cleared, second.stored()]);
    await bed.expectHeld(address, second, [1, 1]);
    const values: Readonly<Record<string, readonly [Readonly<Record<string, string>>, number]>> = {
      kvatlas_ingester_replayed_batches_total: [{}, 1],
      kvatlas_ingester_gaps_total: [{ cause: "live" }, 1],
      kvatlas_ingester_incarnations_total: [{ cause: "cleared" }, 1],
      kvatlas_ingester_skipped_total: [{ reason: "unknown tag" }, 1],
      kvatlas_ingester_lease_changes_total: [{ change: "taken" }, 1],
      kvatlas_ingester_connections_total: [{ event: "up" }, 1],
      kvatlas_ingester_endpoints: [{}, 1],
    };
    for (const [name, [labels, value]] of Object.entries(values)) {
      await eventually(async () => expect(await rig.metric(name, labels), name).toBeGreaterThanOrEqual(value));
    }
    for (const kind of ["stored", "removed", "cleared"])
      expect(await rig.metric("kvatlas_ingester_events_total", { kind }), kind).toBeGreaterThan(0);
    for (const op of ["store", "remove"])
      expect(await rig.metric("kvatlas_ingester_block_operations_total", { op }), op).toBeGreaterThan(0);
    expect(await rig.metric("kvatlas_ingester_replays_total", { outcome: "complete" })).toBeGreaterThan(0);
    const page = await rig.metricsRegistry.metrics();
    for (const name of ["flush", "visible"]) expect(page).toMatch(new RegExp(`kvatlas_ingester_${name}_seconds_count [1-9]`));
    await rig.ingester.close();
    expect(await rig.metric("kvatlas_ingester_lease_changes_total", { change: "handed over" })).toBe(1);
    expect(await rig.metricsRegistry.metrics()).not.toContain(`endpoint="${address}"`);
  });

  it("says how far an endpoint is behind, in batches, seconds and bytes, while the store does not answer", async () => {
    const store = memoryStore();
    const stalling = pausable(store);
    const publisher = await bed.publisher();
    const rig = await bed.ingester([poolOf([{ address, publisher }])], { leaseTtlMs: 60_000 }, "a", { store: stalling });
    await joined(publisher, rig);
    const [first, rest] = [new TestPrompt(1, 1), new TestPrompt(2, 40)];
    await publisher.publish([first.stored()]);
    await eventually(async () => expect(await rig.metric("kvatlas_ingester_visible_seconds")).toBeGreaterThan(0));
    stalling.pauseIndex();
    for (let block = 0; block < 40; block++) await publisher.publish([rest.stored(block, block + 1)]);
    const labels = { endpoint: address };
    await eventually(async () => expect(await rig.metric("kvatlas_ingester_lag_batches", labels)).toBeGreaterThan(10));
    await eventually(async () => expect(await rig.metric("kvatlas_ingester_lag_seconds", labels)).toBeGreaterThan(0.1));
    stalling.resume();
    await eventually(async () => expect(await rig.metric("kvatlas_ingester_lag_batches", labels)).toBe(0));
    await eventually(async () => expect(await rig.metric("kvatlas_ingester_lag_seconds", labels)).toBe(0));
  });
});

describe("a connection to a publisher", () => {
  it("that is refused, cut and stalled is dialled again, counted, and what was missed is replayed", async () => {
    const publisher = await bed.publisher();
    const link = await TcpProxy.start(portOf(publisher.events));
    bed.onClose(() => link.close());
    link.set({ kind: "cut" });
    const through = { events: `tcp://127.0.0.1:${link.port}`, replay: publisher.replay };
    const rig = await bed.ingester([poolOf([{ address, publisher: through }])]);
    const count = (event: string) => rig.metric("kvatlas_ingester_connections_total", { event });
    await eventually(async () => expect(await count("dialled again")).toBeGreaterThan(1));
    expect(await count("up")).toBe(0);
    link.set({ kind: "open" });
    await eventually(async () => expect(await count("up")).toBe(1));
    const prompt = new TestPrompt(1, 4);
    await publisher.publish([prompt.stored(0, 1)]);
    await bed.expectHeld(address, prompt, [1, 0, 0, 0]);
    link.set({ kind: "cut" });
    await eventually(async () => expect(await count("down")).toBe(1));
    await publisher.publish([prompt.stored(1, 2)]);
    link.set({ kind: "open" });
    await bed.expectHeld(address, prompt, [1, 1, 0, 0]);
    // A link that swallows everything looks like a quiet engine, but for the heartbeats of the connection.
    link.set({ kind: "stalled" });
    await publisher.publish([prompt.stored(2, 3)]);
    await eventually(async () => expect(await count("down")).toBe(2));
    link.set({ kind: "open" });
    await publisher.publish([prompt.stored(3, 4)]);
    await bed.expectHeld(address, prompt, [1, 1, 1, 1]);
    expect(await rig.metric("kvatlas_ingester_lost_gaps_total")).toBe(0);
    expect(await rig.metric("kvatlas_ingester_incarnations_total")).toBe(0);
  });

  it("to something that speaks no ZeroMQ is counted, and does no harm", async () => {
    const publisher = await bed.publisher();
    const other = await bed.engine({});
    const rig = await bed.ingester([
      poolOf([
        { address, publisher },
        { address: other.address, publisher: { events: `tcp://${other.address}`, replay: "" } },
      ]),
    ]);
    const trouble = async () =>
      (await rig.metric("kvatlas_ingester_connections_total", { event: "dialled again" })) +
      (await rig.metric("kvatlas_ingester_connections_total", { event: "down" })) +
      (await rig.metric("kvatlas_ingester_connections_total", { event: "refused" }));
    await eventually(async () => expect(await trouble()).toBeGreaterThan(0));
    const prompt = new TestPrompt(1, 2);
    await publisher.publish([prompt.stored()]);
    await bed.expectHeld(address, prompt, [1, 1]);
  });
});
