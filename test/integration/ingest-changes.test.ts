import { type Clock, systemClock } from "@kvatlas/shared/clock";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { eventually } from "../support/eventually.ts";
import { IngestBed } from "../support/ingest-bed.ts";
import { heldBy, poolOf, recordOf, type TestIngester, TestPrompt } from "../support/ingest-rig.ts";
import { pausable } from "../support/pausable-store.ts";
import type { TestPublisher } from "../support/test-publisher.ts";

/* What operators change while endpoints live on, and clocks that somebody sets. */

let bed: IngestBed;
beforeEach(() => {
  bed = new IngestBed();
});
afterEach(() => bed.close());

const owned = (rig: TestIngester): readonly string[] => [...rig.ingester.owned().keys()].sort();
const sourceOf = (publisher: TestPublisher) => ({ endpoint: publisher.events, replay_endpoint: publisher.replay });

describe("another number of data-parallel ranks", () => {
  it("is followed up and down: new ranks are looked after, those that are gone lose what was known of them", async () => {
    const [zero, one] = [await bed.publisher(), await bed.publisher({ rank: 1 })];
    const engine = await bed.engine({ "/metrics": "", "/kv_event_sources": { "0": sourceOf(zero) } });
    const pool = { name: "p", model: "m", endpoints: { static: [{ address: engine.address }] } };
    const rig = await bed.ingester([pool]);
    const [p0, p1] = [new TestPrompt(1, 2), new TestPrompt(2, 2)];
    await zero.publish([p0.stored()]);
    await bed.expectHeld(engine.address, p0, [1, 1]);
    // The engine is started again with two ranks: another process, whose rank 0 publishes elsewhere.
    const again = await bed.publisher();
    engine.pages["/kv_event_sources"] = { "0": sourceOf(again), "1": sourceOf(one) };
    await zero.close();
    await again.publish([p1.stored()]);
    await one.publish([p1.stored()]);
    await bed.expectHeld(engine.address, p1, [1, 1]);
    await bed.expectHeld(`${engine.address}/1`, p1, [1, 1]);
    expect(await heldBy(bed.store, engine.address, p0.keys)).toEqual([0, 0]);
    expect(owned(rig)).toEqual([engine.address, `${engine.address}/1`]);
    // And with one again.
    const single = await bed.publisher();
    engine.pages["/kv_event_sources"] = { "0": sourceOf(single) };
    await Promise.all([again.close(), one.close()]);
    await single.publish([p0.stored()]);
    await bed.expectHeld(engine.address, p0, [1, 1]);
    await eventually(async () => expect((await recordOf(bed.store, `${engine.address}/1`))?.meta.findings).toHaveProperty("no-events"));
  });
});

describe("an engine that restarts twice between two looks at it", () => {
  it("is found out although its batches are numbered on from where the run between had come", async () => {
    const publisher = await bed.publisher();
    const startedAt = (seconds: number): string => `process_start_time_seconds ${seconds}\n`;
    const engine = await bed.engine({ "/metrics": startedAt(1_000) });
    const { address } = engine;
    const rig = await bed.ingester([poolOf([{ address, publisher }])]);
    const [first, between, last] = [new TestPrompt(1, 2), new TestPrompt(2, 2), new TestPrompt(3, 4)];
    await publisher.publish([first.stored()], { timestamp: 1_001 });
    await bed.expectHeld(address, first, [1, 1]);
    await eventually(async () => expect((await recordOf(bed.store, address))?.meta.processStartSeconds).toBe(1_000));
    publisher.restart();
    await publisher.publish([between.stored()], { timestamp: 1_011 });
    await bed.expectHeld(address, between, [1, 1]);
    publisher.restart();
    await publisher.publish([last.stored(0, 2)], { timestamp: 1_021, lose: true });
    await publisher.publish([last.stored(2, 4)], { timestamp: 1_022 });
    await bed.expectHeld(address, last, [0, 0, 1, 1]);
    engine.pages["/metrics"] = startedAt(1_020);
    await bed.expectHeld(address, last, [1, 1, 1, 1]);
    await bed.expectHeld(address, between, [0, 0]);
    // Once each.
    expect(await rig.metric("kvatlas_ingester_incarnations_total", { cause: "restart" })).toBe(2);
  });
});

describe("another model at the same address", () => {
  it("begins a new life there when the configuration says so", async () => {
    const [former, next] = [await bed.publisher(), await bed.publisher()];
    const address = "127.0.0.1:1";
    const first = await bed.ingester([poolOf([{ address, publisher: former }])]);
    const [before, after] = [new TestPrompt(1, 2), new TestPrompt(2, 3)];
    await former.publish([before.stored()]);
    await bed.expectHeld(address, before, [1, 1]);
    await first.ingester.close();
    await next.publish([after.stored(0, 1)]);
    await next.publish([after.stored(1, 3)]);
    const second = await bed.ingester([{ ...poolOf([{ address, publisher: next }]), model: "m2" }], {}, "b");
    await bed.expectHeld(address, after, [1, 1, 1]);
    expect((await recordOf(bed.store, address))?.meta.model).toBe("m2");
    expect((await recordOf(bed.store, address))?.meta.scope).toContain("m2");
    await bed.expectHeld(address, before, [0, 0]);
    expect(await second.metric("kvatlas_ingester_incarnations_total", { cause: "restart" })).toBe(1);
  });

  it("is named when only the replica says so", async () => {
    const publisher = await bed.publisher();
    const engine = await bed.engine({ "/metrics": "", "/v1/models": { data: [{ id: "m" }] } });
    await bed.ingester([poolOf([{ address: engine.address, publisher }])]);
    const prompt = new TestPrompt(1, 2);
    await publisher.publish([prompt.stored()]);
    await bed.expectHeld(engine.address, prompt, [1, 1]);
    await eventually(async () => expect((await recordOf(bed.store, engine.address))?.meta).toMatchObject({ ready: true, findings: {} }));
    engine.pages["/v1/models"] = { data: [{ id: "other" }] };
    await eventually(async () => expect((await recordOf(bed.store, engine.address))?.meta.findings.model).toContain("serves other"));
  });
});

describe("another topic", () => {
  it("changes nothing for a publisher that is dialled: it is known by its address", async () => {
    const address = "127.0.0.1:1";
    const publisher = await bed.publisher({ topic: "kv@10.0.0.9@m" });
    const rig = await bed.ingester([poolOf([{ address, publisher }])]);
    const prompt = new TestPrompt(1, 3);
    await publisher.publish([prompt.stored(0, 2)]);
    await bed.expectHeld(address, prompt, [1, 1, 0]);
    publisher.rename("kv@10.0.0.10@m");
    await publisher.publish([prompt.stored(2, 3)]);
    await bed.expectHeld(address, prompt, [1, 1, 1]);
    expect(owned(rig)).toEqual([address]);
  });

  it("makes another endpoint of a publisher that dials, and leaves the former one as it was", async () => {
    const rig = await bed.ingester([], { bind: "tcp://127.0.0.1:0" });
    const publisher = await bed.publisher({ dial: rig.ingester.boundAddress(), topic: "kv@127.0.0.1:7001@m" });
    const prompt = new TestPrompt(1, 4);
    // The subscription takes a moment longer than the connection.
    await eventually(async () => {
      await publisher.publish([]);
      expect(owned(rig)).toEqual(["127.0.0.1:7001"]);
    });
    await publisher.publish([prompt.stored(0, 2)]);
    await bed.expectHeld("127.0.0.1:7001", prompt, [1, 1, 0, 0]);
    publisher.rename("kv@127.0.0.1:7002@m");
    const next = new TestPrompt(2, 2);
    await publisher.publish([next.stored(), prompt.stored(2, 4)]);
    await bed.expectHeld("127.0.0.1:7002", [...next.keys, ...prompt.keys], [1, 1, 0, 0, 1, 1]);
    await bed.expectHeld("127.0.0.1:7001", prompt, [1, 1, 0, 0]);
    expect(await rig.metric("kvatlas_ingester_frames_total", { outcome: "restart" })).toBe(0);
  });
});

describe("clocks that are off by an hour", () => {
  const skewed = (hours: number): Clock => ({ now: () => systemClock.now() + hours * 3_600_000, monotonic: () => systemClock.monotonic() });

  it.each([1, -1])("%i h: leases go by the store's time, and a dead owner's endpoints are taken all the same", async (hours) => {
    const fleet: { address: string; publisher: TestPublisher }[] = [];
    for (let i = 1; i <= 4; i++) fleet.push({ address: `127.0.0.${i}:1`, publisher: await bed.publisher() });
    const addresses = fleet.map(({ address }) => address);
    const reached = pausable(bed.store);
    bed.onClose(async () => reached.resume());
    const off = await bed.ingester([poolOf(fleet)], {}, "off", { store: reached, clock: skewed(hours) });
    await eventually(() => expect(owned(off)).toEqual(addresses));
    const right = await bed.ingester([poolOf(fleet)], {}, "right");
    const prompt = new TestPrompt(1, 3);
    for (const { publisher } of fleet) await publisher.publish([prompt.stored(0, 2)]);
    for (const address of addresses) await bed.expectHeld(address, prompt, [1, 1, 0]);
    await eventually(() => expect([...owned(off), ...owned(right)].sort()).toEqual(addresses));
    // It dies, and its beats are of the future or of the past.
    reached.pause();
    await eventually(() => expect(owned(right)).toEqual(addresses));
    for (const { publisher } of fleet) await publisher.publish([prompt.stored(2, 3), prompt.removed(0)]);
    for (const address of addresses) await bed.expectHeld(address, prompt, [0, 1, 1]);
    expect(await right.metric("kvatlas_ingester_lost_gaps_total")).toBe(0);
    expect(await right.metric("kvatlas_ingester_incarnations_total")).toBe(0);
  });

  it("a jump in the middle costs nothing", async () => {
    let hours = 0;
    const clock: Clock = { now: () => systemClock.now() + hours * 3_600_000, monotonic: () => systemClock.monotonic() };
    const publisher = await bed.publisher();
    const address = "127.0.0.1:1";
    const rig = await bed.ingester([poolOf([{ address, publisher }])], {}, "a", { clock });
    const prompt = new TestPrompt(1, 6);
    for (const [block, jump] of [0, 1, -1, 0, 1, 0].entries()) {
      hours = jump;
      await publisher.publish([prompt.stored(block, block + 1)]);
      await bed.expectHeld(
        address,
        prompt,
        prompt.keys.map((_, i) => (i <= block ? 1 : 0)),
      );
    }
    expect(owned(rig)).toEqual([address]);
    expect(await rig.metric("kvatlas_ingester_lease_changes_total")).toBe(1);
    expect(await rig.metric("kvatlas_ingester_incarnations_total")).toBe(0);
    expect(await rig.metric("kvatlas_ingester_lost_gaps_total")).toBe(0);
  });
});
