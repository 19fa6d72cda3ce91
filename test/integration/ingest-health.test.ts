import type { EndpointId } from "@kvatlas/shared/types";
import { createSimulator, type Simulator, type SimulatorOptions } from "@kvatlas/simulator/app";
import { afterEach, describe, expect, it } from "vitest";
import { eventually } from "../support/eventually.ts";
import { startFakeEngine } from "../support/fake-engine.ts";
import { heldBy, memoryStore, poolOf, recordOf, startTestIngester, TestPrompt, type TestStore, testConfig } from "../support/ingest-rig.ts";
import { TestPublisher } from "../support/test-publisher.ts";

const model = "sim";
const cleanups: (() => Promise<unknown>)[] = [];

afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

async function simulate(options: SimulatorOptions = {}): Promise<Simulator> {
  const simulator = createSimulator({}, { model, seed: "42", speed: 200, ...options });
  cleanups.push(() => simulator.close());
  await simulator.start();
  return simulator;
}

async function ingest(store: TestStore, simulator: Simulator, settings: object) {
  const endpoints = {
    static: [{ address: simulator.address, events: (simulator.eventsEndpoint ?? "").replace("*", "127.0.0.1") }],
  };
  const rig = await startTestIngester(store, testConfig([{ name: "p", model, endpoints }], settings));
  cleanups.push(() => rig.ingester.close());
  return rig;
}

const post = (simulator: Simulator, path: string, body: object): Promise<Response> =>
  fetch(`${simulator.url}${path}`, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) });

const metaOf = async (store: TestStore, address: string) => (await recordOf(store, address))?.meta;

describe("health of a replica", () => {
  it("marks an engine that hangs, and one that is well again", async () => {
    const store = memoryStore();
    const simulator = await simulate();
    await ingest(store, simulator, { hungAfterMs: 300 });
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
    const store = memoryStore();
    const simulator = await simulate();
    await ingest(store, simulator, {});
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
    const store = memoryStore();
    const engine = await startFakeEngine({
      "/is_sleeping": { is_sleeping: false },
      "/metrics": 'vllm:num_requests_running{engine="0"} 0\n',
    });
    cleanups.push(() => engine.close());
    const publisher = await TestPublisher.start();
    cleanups.push(() => publisher.close());
    const rig = await startTestIngester(store, testConfig([poolOf([{ address: engine.address, publisher }])]));
    cleanups.push(() => rig.ingester.close());
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
});
