import { afterEach, describe, expect, it } from "vitest";
import { eventually } from "../support/eventually.ts";
import {
  heldBy,
  memoryStore,
  poolOf,
  recordOf,
  startTestIngester,
  type TestIngester,
  TestPrompt,
  type TestStore,
  testConfig,
} from "../support/ingest-rig.ts";
import { pausable } from "../support/pausable-store.ts";
import { TestPublisher, type TestPublisherOptions } from "../support/test-publisher.ts";

const cleanups: (() => Promise<unknown>)[] = [];

afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

interface Replica {
  readonly address: string;
  readonly publisher: TestPublisher;
}

async function replicas(count: number, options: TestPublisherOptions = {}): Promise<readonly Replica[]> {
  const made: Replica[] = [];
  for (let i = 0; i < count; i++) {
    const publisher = await TestPublisher.start(options);
    cleanups.push(() => publisher.close());
    made.push({ address: `127.0.0.${i + 1}:1`, publisher });
  }
  return made;
}

async function join(store: TestStore, fleet: readonly Replica[], instanceId: string): Promise<TestIngester> {
  const rig = await startTestIngester(store, testConfig([poolOf(fleet)]), instanceId);
  cleanups.push(() => rig.ingester.close());
  return rig;
}

const owned = (rig: TestIngester): readonly string[] => [...rig.ingester.owned().keys()].sort();
const caughtUp = (rig: TestIngester): boolean => [...rig.ingester.owned().values()].every(({ isCaughtUp }) => isCaughtUp);

async function expectHeld(store: TestStore, address: string, prompt: TestPrompt, counts: readonly number[]): Promise<void> {
  await eventually(async () => expect(await heldBy(store, address, prompt.keys)).toEqual(counts));
}

describe("several ingesters on one registry", () => {
  it("share the endpoints, and the one that closes hands its over", async () => {
    const store = memoryStore();
    const fleet = await replicas(8);
    const addresses = fleet.map(({ address }) => address).sort();
    const first = await join(store, fleet, "a");
    await eventually(() => expect(owned(first)).toEqual(addresses));
    const second = await join(store, fleet, "b");
    await eventually(() => {
      expect([...owned(first), ...owned(second)].sort()).toEqual(addresses);
      expect(owned(first).length).toBeGreaterThan(0);
      expect(owned(second).length).toBeGreaterThan(0);
      expect(caughtUp(first) && caughtUp(second)).toBe(true);
    });
    const prompt = new TestPrompt(1, 3);
    for (const { publisher } of fleet) await publisher.publish([prompt.stored(0, 2)]);
    for (const address of addresses) await expectHeld(store, address, prompt, [1, 1, 0]);
    await first.ingester.close();
    await eventually(() => expect(owned(second)).toEqual(addresses));
    for (const { publisher } of fleet) await publisher.publish([prompt.stored(2, 3)]);
    for (const address of addresses) await expectHeld(store, address, prompt, [1, 1, 1]);
    for (const address of addresses) expect((await recordOf(store, address))?.state.incarnation).toBeGreaterThan(0);
    expect(await second.metric("kvatlas_ingester_incarnations_total")).toBe(0);
  });

  it("one falls silent: another goes on from the watermark, and the silent one cannot write when it comes back", async () => {
    const store = memoryStore();
    const fleet = await replicas(1);
    const [replica] = fleet;
    if (replica === undefined) throw new Error("there is one replica");
    const { address, publisher } = replica;
    const stalling = pausable(store);
    const first = await join(stalling, fleet, "a");
    await eventually(() => expect(owned(first).length === 1 && caughtUp(first)).toBe(true));
    const prompt = new TestPrompt(1, 4);
    await publisher.publish([prompt.stored(0, 2), prompt.stored(1, 2)]);
    await expectHeld(store, address, prompt, [1, 2, 0, 0]);
    stalling.pause();
    await publisher.publish([prompt.removed(1)]);
    await publisher.publish([prompt.stored(2, 3)]);
    const second = await join(store, fleet, "b");
    await expectHeld(store, address, prompt, [1, 1, 1, 0]);
    const before = (await recordOf(store, address))?.state;
    stalling.resume();
    await eventually(() => expect(owned(first)).toEqual([]));
    await publisher.publish([prompt.stored(3, 4)]);
    await expectHeld(store, address, prompt, [1, 1, 1, 1]);
    expect((await recordOf(store, address))?.state.incarnation).toBe(before?.incarnation);
    expect(await second.metric("kvatlas_ingester_incarnations_total")).toBe(0);
  });

  it("notices at a change of owner that the engine has restarted and gone further than before", async () => {
    const store = memoryStore();
    const fleet = await replicas(1);
    const [replica] = fleet;
    if (replica === undefined) throw new Error("there is one replica");
    const { address, publisher } = replica;
    const first = await join(store, fleet, "a");
    await eventually(() => expect(owned(first).length === 1 && caughtUp(first)).toBe(true));
    const [old, fresh] = [new TestPrompt(1, 2), new TestPrompt(2, 4)];
    await publisher.publish([old.stored(0, 1)]);
    await publisher.publish([old.stored(1, 2)]);
    await expectHeld(store, address, old, [1, 1]);
    await first.ingester.close();
    publisher.restart();
    for (let block = 0; block < 4; block++) await publisher.publish([fresh.stored(block, block + 1)]);
    const second = await join(store, fleet, "b");
    await expectHeld(store, address, fresh, [1, 1, 1, 1]);
    expect(await heldBy(store, address, old.keys)).toEqual([0, 0]);
    expect(await second.metric("kvatlas_ingester_incarnations_total", { cause: "restart" })).toBe(1);
  });
});

describe("a registry that has forgotten incarnations which the index has seen", () => {
  it("is counted up past them, and the endpoint is built again", async () => {
    const store = memoryStore();
    const fleet = await replicas(1);
    const [replica] = fleet;
    if (replica === undefined) throw new Error("there is one replica");
    const { address, publisher } = replica;
    const first = await join(store, fleet, "a");
    const prompt = new TestPrompt(1, 2);
    await publisher.publish([prompt.stored()]);
    await expectHeld(store, address, prompt, [1, 1]);
    await first.ingester.close();
    const record = await recordOf(store, address);
    const scope = record?.meta.scope;
    if (record === undefined || scope === undefined || scope === null) throw new Error("the scope is known by now");
    await store.index.openWriter({ scope, endpoint: record.id, incarnation: 9, from: 0, fence: record.state.fence });
    expect(await heldBy(store, address, prompt.keys)).toEqual([0, 0]);
    await join(store, fleet, "b");
    await expectHeld(store, address, prompt, [1, 1]);
    expect((await recordOf(store, address))?.state.incarnation).toBe(9);
  });
});

describe("bind mode", () => {
  async function bound(
    store: TestStore,
    instanceId: string,
    pools: Parameters<typeof testConfig>[0] = [],
  ): Promise<TestIngester & { readonly dial: string }> {
    const rig = await startTestIngester(store, testConfig(pools, { bind: "tcp://127.0.0.1:0" }), instanceId);
    cleanups.push(() => rig.ingester.close());
    return { ...rig, dial: rig.ingester.boundAddress() ?? "" };
  }

  /** What the publisher sends from here on arrives: a subscription takes a moment longer than the connection. */
  async function dialling(
    rig: TestIngester & { readonly dial: string },
    topic: string,
    options: TestPublisherOptions = {},
  ): Promise<TestPublisher> {
    const publisher = await TestPublisher.start({ replay: false, ...options, dial: rig.dial, topic });
    cleanups.push(() => publisher.close());
    await eventually(() => expect(publisher.subscribers).toBe(1));
    const malformed = () => rig.metric("kvatlas_ingester_frames_total", { outcome: "malformed" });
    const before = await malformed();
    await eventually(async () => {
      await publisher.sendFrames(["probe"]);
      expect(await malformed()).toBeGreaterThan(before);
    });
    return publisher;
  }

  it("tells publishers apart by topic and rank, and learns who they are", async () => {
    const store = memoryStore();
    const rig = await bound(store, "a");
    const one = await dialling(rig, "kv@127.0.0.1:7001@org/m@v1");
    const two = await dialling(rig, "kv@127.0.0.2@m");
    const rank = await dialling(rig, "kv@127.0.0.2@m", { rank: 1 });
    const stranger = await dialling(rig, "");
    const prompts = [1, 2, 3, 4].map((seed) => new TestPrompt(seed, 2));
    const [p1, p2, p3, p4] = prompts;
    if (p1 === undefined || p2 === undefined || p3 === undefined || p4 === undefined) throw new Error("there are four prompts");
    await one.publish([p1.stored()]);
    await two.publish([p2.stored()]);
    await rank.publish([p3.stored()]);
    await stranger.publish([p4.stored()]);
    await expectHeld(store, "127.0.0.1:7001", p1, [1, 1]);
    await expectHeld(store, "127.0.0.2:8000", p2, [1, 1]);
    await expectHeld(store, "127.0.0.2:8000/1", p3, [1, 1]);
    await eventually(async () => expect(await rig.metric("kvatlas_ingester_frames_total", { outcome: "unusable topic" })).toBe(1));
    expect((await recordOf(store, "127.0.0.1:7001"))?.meta).toMatchObject({ model: "org/m@v1", rank: 0 });
    expect((await recordOf(store, "127.0.0.2:8000/1"))?.meta).toMatchObject({ model: "m", rank: 1, address: "127.0.0.2:8000" });
    expect((await store.registry.endpoints()).length).toBe(3);
  });

  it("an endpoint follows its publisher to another ingester, while its former owner lives", async () => {
    const store = memoryStore();
    const [first, second] = [await bound(store, "a"), await bound(store, "b")];
    const topic = "kv@127.0.0.1:7001@m";
    const prompt = new TestPrompt(1, 3);
    const here = await dialling(first, topic);
    await here.publish([prompt.stored(0, 2)]);
    await expectHeld(store, "127.0.0.1:7001", prompt, [1, 1, 0]);
    expect(owned(first)).toEqual(["127.0.0.1:7001"]);
    await here.close();
    // The same engine, connected elsewhere: its numbers go on.
    const there = await dialling(second, topic);
    await there.publish([], { vanish: true });
    await there.publish([prompt.stored(2, 3)]);
    await expectHeld(store, "127.0.0.1:7001", prompt, [1, 1, 1]);
    await eventually(() => expect([owned(first), owned(second)]).toEqual([[], ["127.0.0.1:7001"]]));
  });

  it("counts nothing twice while two ingesters receive the same publisher", async () => {
    const store = memoryStore();
    const [first, second] = [await bound(store, "a"), await bound(store, "b")];
    const topic = "kv@127.0.0.1:7001@m";
    // One engine whose connection moves is seen by both for a moment: the same batches on both.
    const connections = [await dialling(first, topic), await dialling(second, topic)];
    const prompt = new TestPrompt(1, 20);
    for (let block = 0; block < 20; block++) {
      for (const connection of connections) await connection.publish([prompt.stored(block, block + 1)]);
    }
    const all = prompt.keys.map(() => 1);
    // Whoever has it in the end has a hole where the other had it, or all of it; never more than there is.
    await eventually(async () => {
      const held = await heldBy(store, "127.0.0.1:7001", prompt.keys);
      expect(held.every((count) => count <= 1)).toBe(true);
      expect(held.at(-1)).toBe(1);
    });
    await connections[0]?.close();
    for (let block = 0; block < 20; block++) await connections[1]?.publish([prompt.removed(block)]);
    await connections[1]?.publish([prompt.stored()]);
    await eventually(async () => expect(await heldBy(store, "127.0.0.1:7001", prompt.keys)).toEqual(all));
  });

  it("begins anew with the next engine at an address, of another model", async () => {
    const store = memoryStore();
    const rig = await bound(store, "a");
    const [before, after] = [new TestPrompt(1, 2), new TestPrompt(2, 2)];
    const former = await dialling(rig, "kv@127.0.0.1:7001@m");
    await former.publish([before.stored(0, 1)]);
    await former.publish([before.stored(1, 2)]);
    await expectHeld(store, "127.0.0.1:7001", before, [1, 1]);
    await former.close();
    const next = await dialling(rig, "kv@127.0.0.1:7001@m2");
    await next.publish([after.stored(0, 1)]);
    await next.publish([after.stored(1, 2)]);
    await expectHeld(store, "127.0.0.1:7001", after, [1, 1]);
    expect(await heldBy(store, "127.0.0.1:7001", before.keys)).toEqual([0, 0]);
    expect((await recordOf(store, "127.0.0.1:7001"))?.meta.model).toBe("m2");
  });

  it("takes a configured replica's pool and replay socket", async () => {
    const store = memoryStore();
    const replayer = await TestPublisher.start({ topic: "kv@127.0.0.9:7001@m" });
    cleanups.push(() => replayer.close());
    const pool = { name: "mine", model: "m", endpoints: { static: [{ address: "127.0.0.9:7001", replay: replayer.replay }] } };
    const rig = await bound(store, "a", [pool]);
    const publisher = await dialling(rig, "kv@127.0.0.9:7001@m");
    const prompt = new TestPrompt(1, 2);
    await replayer.publish([prompt.stored(0, 1)], { timestamp: 5 });
    await publisher.publish([prompt.stored(0, 1)], { lose: true });
    await publisher.publish([prompt.stored(1, 2)]);
    await expectHeld(store, "127.0.0.9:7001", prompt, [1, 1]);
    expect((await recordOf(store, "127.0.0.9:7001"))?.meta.pool).toBe("mine");
  });
});
