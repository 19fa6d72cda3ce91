import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { eventually } from "../support/eventually.ts";
import { IngestBed } from "../support/ingest-bed.ts";
import { heldBy, poolOf, recordOf, type TestIngester, TestPrompt } from "../support/ingest-rig.ts";
import { TcpProxy } from "../support/tcp-proxy.ts";

const address = "127.0.0.1:7001";
const portOf = (endpoint: string | null): number => Number((endpoint ?? "").split(":").at(-1));
let bed: IngestBed;
beforeEach(() => {
  bed = new IngestBed();
});
afterEach(() => bed.close());

describe("a publisher that dials in", () => {
  it.each(["reset", "keep"] as const)("may say where it answers replays later than its first batches come (onGap %s)", async (onGap) => {
    const engine = await bed.engine({ "/metrics": "" });
    const rig = await bed.ingester([poolOf([], { onGap })], { bind: "tcp://127.0.0.1:0" });
    const dial = `tcp://127.0.0.1:${portOf(rig.ingester.boundAddress())}`;
    const publisher = await bed.publisher({ dial, topic: `kv@${engine.address}@m` });
    await eventually(() => expect(publisher.subscribers).toBeGreaterThan(0));
    const [early, late] = [new TestPrompt(1, 3), new TestPrompt(2, 2)];
    await publisher.publish([early.stored()], { lose: true });
    await publisher.publish([late.stored()]);
    await eventually(async () => expect(await heldBy(bed.store, engine.address, late.keys)).toEqual([1, 1]));
    expect(await heldBy(bed.store, engine.address, early.keys)).toEqual([0, 0, 0]);
    // As an engine that has just been started: its HTTP server is up after its publisher.
    engine.pages["/kv_event_sources"] = { "0": { endpoint: publisher.events, replay_endpoint: publisher.replay } };
    await eventually(async () => expect(await heldBy(bed.store, engine.address, early.keys)).toEqual([1, 1, 1]));
    // The endpoint is built anew, batch by batch.
    await eventually(async () => expect(await heldBy(bed.store, engine.address, late.keys)).toEqual([1, 1]));
    await eventually(async () => expect((await recordOf(bed.store, engine.address))?.meta).toMatchObject({ owedFrom: null, findings: {} }));
  });

  it("is built anew from what it still has, when it says where it answers replays after some of it has gone", async () => {
    const engine = await bed.engine({ "/metrics": "" });
    const rig = await bed.ingester([poolOf([])], { bind: "tcp://127.0.0.1:0" });
    const dial = `tcp://127.0.0.1:${portOf(rig.ingester.boundAddress())}`;
    const publisher = await bed.publisher({ dial, topic: `kv@${engine.address}@m`, bufferSteps: 3 });
    await eventually(() => expect(publisher.subscribers).toBeGreaterThan(0));
    const [gone, early, late] = [new TestPrompt(1, 2), new TestPrompt(2, 3), new TestPrompt(3, 2)];
    await publisher.publish([gone.stored()], { lose: true });
    await publisher.publish([early.stored(0, 2)], { lose: true });
    await publisher.publish([early.stored(2, 3)], { lose: true });
    await publisher.publish([late.stored()]);
    await bed.expectHeld(engine.address, late, [1, 1]);
    expect(await heldBy(bed.store, engine.address, early.keys)).toEqual([0, 0, 0]);
    engine.pages["/kv_event_sources"] = { "0": { endpoint: publisher.events, replay_endpoint: publisher.replay } };
    await bed.expectHeld(engine.address, early, [1, 1, 1]);
    await bed.expectHeld(engine.address, late, [1, 1]);
    await bed.expectHeld(engine.address, gone, [0, 0]);
    await eventually(async () => expect((await recordOf(bed.store, engine.address))?.meta).toMatchObject({ owedFrom: null }));
  });
});

describe("two ingesters behind one service", () => {
  it("a publisher that is cut and dials again moves with its watermark: nothing is lost, nothing is left behind", async () => {
    const ingesters: TestIngester[] = [];
    let turn = 0;
    // As a Service does: each new connection goes to the next instance.
    const service = await TcpProxy.start(() => {
      const next = ingesters[turn++ % Math.max(1, ingesters.length)];
      return next === undefined ? null : portOf(next.ingester.boundAddress());
    });
    bed.onClose(() => service.close());
    const publisher = await bed.publisher({ dial: `tcp://127.0.0.1:${service.port}`, topic: `kv@${address}@m` });
    // The replay socket is found by the topic's ip and the configured port.
    const settings = { bind: "tcp://127.0.0.1:0", bindReplayPort: portOf(publisher.replay) };
    for (const name of ["a", "b"]) ingesters.push(await bed.ingester([], settings, name));
    const owners = () => ingesters.map(({ ingester }) => ingester.owned().has(address as never));
    await eventually(async () => {
      await publisher.publish([]);
      expect(owners().filter(Boolean).length).toBe(1);
    });
    const prompt = new TestPrompt(1, 12);
    const counts = prompt.keys.map(() => 0);
    const seen = new Set<number>();
    for (let round = 0; round < 5; round++) {
      const block = round * 2;
      await publisher.publish([prompt.stored(block, block + 1)]);
      counts[block] = 1;
      await bed.expectHeld(address, prompt, counts);
      seen.add(owners().indexOf(true));
      service.set({ kind: "cut" });
      // Nobody hears these: a block that comes, and one that goes.
      await publisher.publish([prompt.stored(block + 1, block + 2)]);
      await publisher.publish([prompt.removed(block)]);
      counts[block + 1] = 1;
      counts[block] = 0;
      const before = publisher.subscribers;
      service.set({ kind: "open" });
      await eventually(() => expect(publisher.subscribers).toBeGreaterThan(before));
      // Its next event, wherever it arrives, brings the endpoint along.
      await eventually(async () => {
        await publisher.publish([]);
        expect(owners()[(turn - 1) % 2]).toBe(true);
      });
      await bed.expectHeld(address, prompt, counts);
    }
    expect(seen.size).toBe(2);
    for (const rig of ingesters) {
      expect(await rig.metric("kvatlas_ingester_lost_gaps_total")).toBe(0);
      // One life all along: whoever came took over from the watermark.
      expect(await rig.metric("kvatlas_ingester_incarnations_total")).toBe(0);
    }
    expect((await recordOf(bed.store, address))?.state.incarnation).toBe(1);
    expect(publisher.replayRequests.length).toBeGreaterThan(0);
  });
});
