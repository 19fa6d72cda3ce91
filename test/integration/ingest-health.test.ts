import type { EndpointId } from "@kvatlas/shared/types";
import type { Simulator } from "@kvatlas/simulator/app";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { eventually } from "../support/eventually.ts";
import { IngestBed, poolOfSimulator } from "../support/ingest-bed.ts";
import { heldBy, poolOf, recordOf, TestPrompt, type TestStore } from "../support/ingest-rig.ts";

const model = "m";
let bed: IngestBed;
beforeEach(() => {
  bed = new IngestBed();
});
afterEach(() => bed.close());

const post = (simulator: Simulator, path: string, body: object): Promise<Response> =>
  fetch(`${simulator.url}${path}`, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) });

const metaOf = async (store: TestStore, address: string) => (await recordOf(store, address))?.meta;

describe("health of a replica", () => {
  it("marks an engine that hangs, and one that is well again", async () => {
    const { store } = bed;
    const simulator = await bed.simulator();
    await bed.ingester([poolOfSimulator(simulator)], { hungAfterMs: 300 });
    await eventually(async () => expect(await metaOf(store, simulator.address)).toMatchObject({ ready: true, findings: {} }));
    await post(simulator, "/sim/faults", { hang: true });
    const answer = post(simulator, "/v1/completions", { model, prompt: [1, 2, 3], max_tokens: 4 });
    await eventually(async () =>
      expect(await metaOf(store, simulator.address)).toMatchObject({
        ready: false,
        findings: { health: expect.stringContaining("hangs") },
      }),
    );
    await post(simulator, "/sim/faults", { hang: false });
    await (await answer).text();
    await eventually(async () => expect(await metaOf(store, simulator.address)).toMatchObject({ ready: true, findings: {} }));
  });

  it("marks a replica that is not well, and one that is gone", async () => {
    const { store } = bed;
    const simulator = await bed.simulator();
    await bed.ingester([poolOfSimulator(simulator)], {});
    await eventually(async () => expect(await metaOf(store, simulator.address)).toMatchObject({ ready: true }));
    await post(simulator, "/sim/faults", { unhealthy: true });
    await eventually(async () => expect(await metaOf(store, simulator.address)).toMatchObject({ ready: false }));
    await post(simulator, "/sim/faults", { unhealthy: false });
    await eventually(async () => expect(await metaOf(store, simulator.address)).toMatchObject({ ready: true }));
    await simulator.close();
    await eventually(async () => expect(await metaOf(store, simulator.address)).toMatchObject({ ready: false }));
  });
});

describe("sleep", () => {
  it("is read from /is_sleeping where metrics do not tell, and batches that come late are forgotten as well", async () => {
    const { store } = bed;
    const engine = await bed.engine({
      "/is_sleeping": { is_sleeping: false },
      "/metrics": 'vllm:num_requests_running{engine="0"} 0\n',
    });
    const publisher = await bed.publisher();
    const rig = await bed.ingester([poolOf([{ address: engine.address, publisher }])]);
    const [before, late, after] = [new TestPrompt(1, 2), new TestPrompt(2, 2), new TestPrompt(3, 2)];
    await publisher.publish([before.stored()]);
    await eventually(async () => expect(await heldBy(store, engine.address, before.keys)).toEqual([1, 1]));
    engine.pages["/is_sleeping"] = { is_sleeping: true };
    await eventually(async () => expect(await heldBy(store, engine.address, before.keys)).toEqual([0, 0]));
    await eventually(async () => {
      const { loads } = await store.registry.readLoad([]);
      expect(loads.get(engine.address as EndpointId)).toMatchObject({ sleeping: true });
    });
    await publisher.publish([late.stored()]);
    await eventually(async () => expect(await rig.metric("kvatlas_ingester_incarnations_total", { cause: "asleep" })).toBe(2));
    expect(await heldBy(store, engine.address, late.keys)).toEqual([0, 0]);
    engine.pages["/is_sleeping"] = { is_sleeping: false };
    await eventually(async () => {
      const { loads } = await store.registry.readLoad([]);
      expect(loads.get(engine.address as EndpointId)).toMatchObject({ sleeping: false });
    });
    await publisher.publish([after.stored()]);
    await eventually(async () => expect(await heldBy(store, engine.address, after.keys)).toEqual([1, 1]));
    expect(await rig.metric("kvatlas_ingester_lost_gaps_total")).toBe(0);
  });

  it.each(["woken up", "restarted"])(
    "takes nothing of what was stored since, when a look at it is followed after a replay of an engine that has %s",
    async (what) => {
      const { store } = bed;
      const metricsOf = (startedAt: number) => `vllm:num_requests_running{engine="0"} 0\nprocess_start_time_seconds ${startedAt}\n`;
      const engine = await bed.engine({ "/is_sleeping": { is_sleeping: false }, "/metrics": metricsOf(1_790_000_000) });
      const publisher = await bed.publisher();
      const rig = await bed.ingester([poolOf([{ address: engine.address, publisher }])], { replayTimeoutMs: 1_500 });
      const looks = async (sleeping: boolean) =>
        eventually(async () => {
          const { loads } = await store.registry.readLoad([]);
          expect(loads.get(engine.address as EndpointId)).toMatchObject({ sleeping });
        });
      const [before, missed, since] = [new TestPrompt(1, 2), new TestPrompt(2, 2), new TestPrompt(3, 2)];
      await publisher.publish([before.stored()]);
      await bed.expectHeld(engine.address, before, [1, 1]);
      await looks(false);
      // While a replay hangs, the engine is seen asleep, and awake again.
      publisher.muteReplay(true);
      const asked = publisher.replayRequests.length;
      await publisher.publish([["AllBlocksCleared"], missed.stored()], { lose: true });
      await publisher.publish([since.stored()]);
      await eventually(() => expect(publisher.replayRequests.length).toBeGreaterThan(asked));
      engine.pages["/is_sleeping"] = { is_sleeping: true };
      await looks(true);
      engine.pages["/is_sleeping"] = { is_sleeping: false };
      await looks(false);
      if (what === "restarted") {
        publisher.restart();
        await publisher.publish([since.stored()], { lose: true });
        engine.pages["/metrics"] = metricsOf(1_790_001_000);
      }
      publisher.muteReplay(false);
      await bed.expectHeld(engine.address, before, [0, 0]);
      await bed.expectHeld(engine.address, since, [1, 1]);
      await bed.expectHeld(engine.address, missed, what === "restarted" ? [0, 0] : [1, 1]);
      expect(await rig.metric("kvatlas_ingester_incarnations_total", { cause: "asleep" })).toBe(0);
    },
  );
});
