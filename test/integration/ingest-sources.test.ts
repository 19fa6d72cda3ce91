import type { BlockKey, EndpointId } from "@kvatlas/shared/types";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { eventually } from "../support/eventually.ts";
import { complete, IngestBed, numbers } from "../support/ingest-bed.ts";
import { heldBy, recordOf, type TestIngester, TestPrompt, type TestStore } from "../support/ingest-rig.ts";
import type { TestPublisher } from "../support/test-publisher.ts";

let bed: IngestBed;
beforeEach(() => {
  bed = new IngestBed();
});
afterEach(() => bed.close());

/** Replicas are configured by their addresses alone. */
const ingest = (addresses: readonly string[]): Promise<TestIngester> =>
  bed.ingester([{ name: "p", model: "m", endpoints: { static: addresses.map((address) => ({ address })) } }]);
const findingsOf = async (store: TestStore, endpoint: string) => (await recordOf(store, endpoint))?.meta.findings;
const sourcesOf = (publisher: TestPublisher) => ({ endpoint: publisher.events, replay_endpoint: publisher.replay });

describe("a replica that is configured by its address alone", () => {
  it("is asked where it publishes, every rank of it", async () => {
    const { store } = bed;
    const base = 20_000 + Math.floor(Math.random() * 10_000);
    const simulator = await bed.simulator({
      dataParallelSize: 2,
      kvEventsEndpoint: `tcp://*:${base}`,
      replayEndpoint: `tcp://*:${base + 10}`,
    });
    const rig = await ingest([simulator.address]);
    await complete(simulator, numbers(0, 100), {}, { "X-data-parallel-rank": "0" });
    await complete(simulator, numbers(5_000, 164), {}, { "X-data-parallel-rank": "1" });
    await simulator.drained();
    for (const { rank, hashes } of simulator.blocks()) {
      const keys = Object.keys(hashes) as BlockKey[];
      expect(keys.length).toBeGreaterThan(0);
      const endpoint = rank === 0 ? simulator.address : `${simulator.address}/${rank}`;
      await eventually(async () => expect(await heldBy(store, endpoint, keys)).toEqual(keys.map((key) => hashes[key])));
    }
    expect(rig.ingester.owned().size).toBe(2);
    expect(await findingsOf(store, simulator.address)).toEqual({});
    // The first store settles the scheme; later ones are checked against it.
    await complete(simulator, numbers(9_000, 64), {}, { "X-data-parallel-rank": "0" });
    await eventually(async () => expect(await rig.metric("kvatlas_ingester_key_match_ratio", { endpoint: simulator.address })).toBe(1));
  });

  it("is dialled anew where its next process publishes", async () => {
    const { store } = bed;
    const [former, next] = [await bed.publisher(), await bed.publisher()];
    const engine = await bed.engine({ "/metrics": "", "/kv_event_sources": { "0": sourcesOf(former) } });
    const rig = await ingest([engine.address]);
    const [before, after] = [new TestPrompt(1, 2), new TestPrompt(2, 2)];
    await former.publish([before.stored(0, 1)]);
    await former.publish([before.stored(1, 2)]);
    await eventually(async () => expect(await heldBy(store, engine.address, before.keys)).toEqual([1, 1]));
    await next.publish([after.stored()]);
    engine.pages["/kv_event_sources"] = { "0": sourcesOf(next) };
    await former.close();
    await eventually(async () => expect(await heldBy(store, engine.address, after.keys)).toEqual([1, 1]));
    expect(await heldBy(store, engine.address, before.keys)).toEqual([0, 0]);
    expect(await rig.metric("kvatlas_ingester_incarnations_total", { cause: "restart" })).toBe(1);
  });

  it("may be one rank of a data-parallel group with a server of its own", async () => {
    const { store } = bed;
    const publisher = await bed.publisher({ rank: 3 });
    const engine = await bed.engine({
      "/metrics": 'vllm:num_requests_running{engine="3"} 7\n',
      "/kv_event_sources": { "3": sourcesOf(publisher) },
    });
    await ingest([engine.address]);
    const prompt = new TestPrompt(1, 2);
    await publisher.publish([prompt.stored()]);
    await eventually(async () => expect(await heldBy(store, engine.address, prompt.keys)).toEqual([1, 1]));
    await eventually(async () => {
      const { loads } = await store.registry.readLoad([]);
      expect(loads.get(engine.address as EndpointId)).toMatchObject({ running: 7 });
    });
  });
});

describe("findings", () => {
  it("name an engine that works and publishes nothing, until it does", async () => {
    const { store } = bed;
    const publisher = await bed.publisher();
    const engine = await bed.engine({
      "/metrics": 'vllm:num_requests_running{engine="0"} 0\nvllm:prompt_tokens_total{engine="0"} 50000\n',
      "/kv_event_sources": { "0": sourcesOf(publisher) },
    });
    await ingest([engine.address]);
    const silent = { "no-events": expect.stringContaining("50000 prompt tokens and published nothing") };
    await eventually(async () => expect(await findingsOf(store, engine.address)).toEqual(silent));
    const prompt = new TestPrompt(1, 2);
    await publisher.publish([prompt.stored()]);
    await eventually(async () => expect(await heldBy(store, engine.address, prompt.keys)).toEqual([1, 1]));
    await eventually(async () => expect(await findingsOf(store, engine.address)).toEqual({}));
  });

  it("name replicas of one pool that hash otherwise than the others; both are indexed", async () => {
    const { store } = bed;
    const fleet = [await bed.simulator(), await bed.simulator(), await bed.simulator({ seed: "0" })];
    await ingest(fleet.map(({ address }) => address));
    for (const simulator of fleet) await complete(simulator, numbers(0, 64));
    const [one, two, odd] = fleet.map(({ address }) => address);
    await eventually(async () => expect(await findingsOf(store, odd ?? "")).toHaveProperty("scheme-differs"));
    expect((await findingsOf(store, odd ?? ""))?.["scheme-differs"]).toMatch(/seed "0".*; 2 others .* seed "42"/);
    for (const address of [one, two]) expect(await findingsOf(store, address ?? "")).toEqual({});
    for (const simulator of fleet) {
      const keys = Object.keys(simulator.blocks()[0]?.hashes ?? {}) as BlockKey[];
      await eventually(async () => expect(await heldBy(store, simulator.address, keys)).toEqual(keys.map(() => 1)));
    }
  });
});
