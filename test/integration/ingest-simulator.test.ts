import { createBlockHasher } from "@kvatlas/shared/hashing/block-hasher";
import type { BlockKey, EndpointId } from "@kvatlas/shared/types";
import type { Simulator } from "@kvatlas/simulator/app";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { eventually } from "../support/eventually.ts";
import { complete as completeOn, IngestBed, poolOfSimulator, numbers as prompt } from "../support/ingest-bed.ts";
import { heldBy, recordOf, type TestIngester } from "../support/ingest-rig.ts";

const model = "m";
let bed: IngestBed;
beforeEach(() => {
  bed = new IngestBed();
});
afterEach(() => bed.close());

/** The replay address is asked from the replicas. */
function ingest(simulators: readonly Simulator[]): Promise<TestIngester> {
  const endpoints = {
    static: simulators.map((simulator) => ({
      address: simulator.address,
      events: (simulator.eventsEndpoint ?? "").replace("*", "127.0.0.1"),
      dataParallelSize: simulator.publishers.length,
    })),
  };
  return bed.ingester([{ name: "p", model, endpoints }]);
}

const complete = (simulator: Simulator, tokens: readonly number[], headers: Readonly<Record<string, string>> = {}): Promise<void> =>
  completeOn(simulator, tokens, { max_tokens: 20 }, headers);

function note(simulator: Simulator, everSeen: Set<string>): void {
  for (const dump of simulator.blocks()) for (const hash of Object.keys(dump.hashes)) everSeen.add(hash);
}

describe("simulated replicas", () => {
  it.each(["0.10.1", "0.11.2", "0.22.1", "0.32", "0.33"])("index equals the cache of a %s engine that evicts", async (engineVersion) => {
    const { store } = bed;
    const extra = engineVersion === "0.10.1" ? { hashAlgorithm: "sha256_cbor_64bit" as const } : {};
    const simulator = await bed.simulator({ engineVersion, numBlocks: 64, ...extra });
    const rig = await bed.ingester([poolOfSimulator(simulator)]);
    const everSeen = new Set<string>();
    for (let i = 0; i < 12; i++) {
      await Promise.all([complete(simulator, prompt(i * 1_000, 100)), complete(simulator, prompt(i * 1_000, 64))]);
      note(simulator, everSeen);
    }
    await bed.expectEqualToTruth(simulator, everSeen);
    expect(everSeen.size).toBeGreaterThan(63);
    expect(await rig.metric("kvatlas_ingester_checked_blocks_total", { result: "different" })).toBe(0);
    await eventually(async () =>
      expect((await recordOf(store, simulator.address))?.meta).toMatchObject({
        ready: true,
        findings: {},
        processStartSeconds: expect.any(Number),
      }),
    );
    await eventually(async () => {
      const { loads } = await store.registry.readLoad([]);
      expect(loads.get(simulator.address as EndpointId)).toMatchObject({ waiting: 0, running: 0, maxTokens: expect.any(Number) });
    });
  });

  it("index equals the cache through dropped batches, a cache reset and restarts", async () => {
    const simulator = await bed.simulator({ numBlocks: 96 });
    const rig = await ingest([simulator]);
    const everSeen = new Set<string>();
    const faults = async (body: object): Promise<void> => {
      const response = await fetch(`${simulator.url}/sim/faults`, { method: "POST", body: JSON.stringify(body) });
      expect(response.status).toBe(200);
    };
    await complete(simulator, prompt(0, 200));
    await bed.expectEqualToTruth(simulator, everSeen);
    await faults({ drop: 2 });
    for (let i = 1; i < 4; i++) await complete(simulator, prompt(i * 1_000, 150));
    note(simulator, everSeen);
    await bed.expectEqualToTruth(simulator, everSeen);
    expect(await rig.metric("kvatlas_ingester_lost_gaps_total")).toBe(0);
    await faults({ resetCache: true });
    await complete(simulator, prompt(9_000, 100));
    await bed.expectEqualToTruth(simulator, everSeen);
    expect(await rig.metric("kvatlas_ingester_incarnations_total", { cause: "cleared" })).toBe(1);
    await faults({ lose: 1 });
    await complete(simulator, prompt(10_000, 100));
    await faults({ restart: true });
    await complete(simulator, prompt(11_000, 100));
    await bed.expectEqualToTruth(simulator, everSeen);
    await faults({ restart: { reopenSockets: true } });
    await complete(simulator, prompt(12_000, 100));
    await bed.expectEqualToTruth(simulator, everSeen);
  });

  it("notices by the process start time a restart that no event shows", async () => {
    const { store } = bed;
    const simulator = await bed.simulator();
    await ingest([simulator]);
    const everSeen = new Set<string>();
    await complete(simulator, prompt(0, 200));
    await bed.expectEqualToTruth(simulator, everSeen);
    await eventually(async () => expect((await recordOf(store, simulator.address))?.meta.processStartSeconds).not.toBeNull());
    await fetch(`${simulator.url}/sim/faults`, { method: "POST", body: JSON.stringify({ restart: true }) });
    await bed.expectEqualToTruth(simulator, everSeen);
    expect(await heldBy(store, simulator.address, [...everSeen] as BlockKey[])).toEqual([...everSeen].map(() => 0));
  });

  it("asks an engine that works and is not heard (seed 53)", async () => {
    const { store } = bed;
    const simulator = await bed.simulator();
    const rig = await ingest([simulator]);
    const everSeen = new Set<string>();
    await simulator.applyFaults({ slowJoin: 100, restart: true });
    // Whatever made it ask so far has been answered.
    await eventually(async () => expect((await recordOf(store, simulator.address))?.meta.processStartSeconds).not.toBeNull());
    await eventually(() => expect([...rig.ingester.owned().values()]).toEqual([{ isCaughtUp: true }]));
    await complete(simulator, prompt(0, 200));
    await bed.expectEqualToTruth(simulator, everSeen);
    expect(everSeen.size).toBeGreaterThan(0);
  });

  it("forgets the cache of an engine that falls asleep, before any event says so", async () => {
    const { store } = bed;
    const simulator = await bed.simulator();
    const rig = await ingest([simulator]);
    const everSeen = new Set<string>();
    await complete(simulator, prompt(0, 200));
    await bed.expectEqualToTruth(simulator, everSeen);
    await fetch(`${simulator.url}/sleep`, { method: "POST" });
    const none = [...everSeen].map(() => 0);
    await eventually(async () => expect(await heldBy(store, simulator.address, [...everSeen] as BlockKey[])).toEqual(none));
    expect(await rig.metric("kvatlas_ingester_incarnations_total", { cause: "asleep" })).toBe(1);
    await fetch(`${simulator.url}/wake_up`, { method: "POST" });
    await complete(simulator, prompt(7_000, 200));
    await bed.expectEqualToTruth(simulator, everSeen);
  });

  it.each(["0.32", "0.10.2"])(
    "keeps what a %s engine keeps that is only paused (level 0), and marks it sleeping",
    async (engineVersion) => {
      const { store } = bed;
      const simulator = await bed.simulator({ engineVersion });
      const rig = await bed.ingester([poolOfSimulator(simulator)]);
      const everSeen = new Set<string>();
      await complete(simulator, prompt(0, 200));
      await bed.expectEqualToTruth(simulator, everSeen);
      const sleeping = async () => (await store.registry.readLoad([])).loads.get(simulator.address as EndpointId)?.sleeping;
      await eventually(async () => expect(await sleeping()).toBe(false));
      expect((await fetch(`${simulator.url}/sleep?level=0`, { method: "POST" })).status).toBe(200);
      await eventually(async () => expect(await sleeping()).toBe(true));
      await bed.expectEqualToTruth(simulator, everSeen);
      expect(await rig.metric("kvatlas_ingester_incarnations_total", { cause: "asleep" })).toBe(0);
      // What waits is answered when it goes on, from the cache that it has kept.
      const answer = complete(simulator, prompt(0, 260));
      await fetch(`${simulator.url}/wake_up`, { method: "POST" });
      await answer;
      await eventually(async () => expect(await sleeping()).toBe(false));
      await bed.expectEqualToTruth(simulator, everSeen);
    },
  );

  it("keeps the ranks of one replica apart", async () => {
    // Below the range from which the system takes ephemeral ports.
    const base = 20_000 + Math.floor(Math.random() * 10_000);
    const ranks = await bed.simulator({ dataParallelSize: 2, kvEventsEndpoint: `tcp://*:${base}`, replayEndpoint: `tcp://*:${base + 10}` });
    await ingest([ranks]);
    const everSeen = new Set<string>();
    await complete(ranks, prompt(0, 100), { "X-data-parallel-rank": "0" });
    await complete(ranks, prompt(5_000, 164), { "X-data-parallel-rank": "1" });
    note(ranks, everSeen);
    await bed.expectEqualToTruth(ranks, everSeen);
    const sizes = ranks.blocks().map((dump) => Object.keys(dump.hashes).length);
    expect(sizes.every((size) => size > 0)).toBe(true);
  });

  it("keys by content where the engine's seed is random", async () => {
    const { store } = bed;
    const simulator = await bed.simulator({ engineVersion: "0.32", hashAlgorithm: "xxhash", seed: null, numBlocks: 64 });
    const rig = await bed.ingester([poolOfSimulator(simulator)]);
    const prompts = Array.from({ length: 10 }, (_, i) => prompt(i * 1_000, 129));
    for (const tokens of prompts) await complete(simulator, tokens);
    await complete(simulator, prompts.at(-1) ?? []);
    await simulator.drained();
    const [dump] = simulator.blocks();
    const copies = Object.values(dump?.hashes ?? {}).reduce((sum, count) => sum + count, 0);
    await eventually(async () => {
      const scope = (await recordOf(store, simulator.address))?.meta.scope ?? null;
      const spec = scope === null ? undefined : (await store.registry.scopes()).get(scope);
      if (scope === null || spec === undefined) throw new Error("the scope is not known yet");
      expect(spec.scheme.kind).toBe("content");
      const hasher = createBlockHasher({ ...spec, blockSizeTokens: 16, model });
      const held = await Promise.all(prompts.map((tokens) => heldBy(store, simulator.address, hasher.chain(tokens).keys)));
      expect(held.at(-1)).toEqual([1, 1, 1, 1, 1, 1, 1, 1]);
      // The first ones were evicted, their removals found through the table.
      expect(held[0]).toEqual([0, 0, 0, 0, 0, 0, 0, 0]);
      expect(copies).toBeGreaterThan(0);
    });
    expect(await rig.metric("kvatlas_ingester_skipped_total")).toBe(0);
  });

  it("an ingester that comes later takes over with the table of engine hashes", async () => {
    const { store } = bed;
    const simulator = await bed.simulator({ engineVersion: "0.32", hashAlgorithm: "xxhash", seed: null, numBlocks: 64, bufferSteps: 1 });
    const first = await bed.ingester([poolOfSimulator(simulator)]);
    const tokens = prompt(0, 129);
    await complete(simulator, tokens);
    const scopeOf = async () => (await recordOf(store, simulator.address))?.meta.scope ?? null;
    const keys = async (): Promise<readonly BlockKey[]> => {
      const spec = (await store.registry.scopes()).get((await scopeOf()) ?? ("" as never));
      if (spec === undefined) throw new Error("the scope is not known yet");
      return createBlockHasher({ ...spec, model }).chain(tokens).keys;
    };
    await eventually(async () => expect(await heldBy(store, simulator.address, await keys())).toEqual([1, 1, 1, 1, 1, 1, 1, 1]));
    await simulator.drained();
    await first.ingester.close();
    const second = await bed.ingester([poolOfSimulator(simulator)], {}, "b");
    await eventually(() => expect([...second.ingester.owned().values()]).toEqual([{ isCaughtUp: true }]));
    // Evicts the first prompt: removals name engine hashes that only the former owner has seen stored.
    for (let i = 1; i < 9; i++) await complete(simulator, prompt(i * 1_000, 129));
    await eventually(async () => expect(await heldBy(store, simulator.address, await keys())).toEqual([0, 0, 0, 0, 0, 0, 0, 0]));
    expect(await second.metric("kvatlas_ingester_incarnations_total")).toBe(0);
  });
});
