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

/* Batches that are lost with nothing behind them that would show it. Found by random schedules of faults (`npm run faults`). */

const address = "127.0.0.1:1";
const cleanups: (() => Promise<unknown>)[] = [];

afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

interface Started {
  readonly publisher: TestPublisher;
  readonly rig: TestIngester;
  readonly store: TestStore;
  /** From now on this ingester reaches no store, as if its process had been stopped. */
  readonly pause: () => void;
}

async function start(options: TestPublisherOptions = {}): Promise<Started> {
  const store = memoryStore();
  const reached = pausable(store);
  const publisher = await TestPublisher.start(options);
  cleanups.push(() => publisher.close());
  const rig = await startTestIngester(reached, testConfig([poolOf([{ address, publisher }])], { replayTimeoutMs: 100 }));
  cleanups.push(() => rig.ingester.close());
  cleanups.push(async () => reached.resume());
  await eventually(() => expect(publisher.subscribers).toBeGreaterThan(0));
  await eventually(() => expect([...rig.ingester.owned().values()]).toEqual([{ isCaughtUp: true }]));
  return { publisher, rig, store, pause: () => reached.pause() };
}

async function expectHeld(store: TestStore, prompt: TestPrompt, counts: readonly number[]): Promise<void> {
  await eventually(async () => expect(await heldBy(store, address, prompt.keys)).toEqual(counts));
}

describe("an engine that falls quiet", () => {
  it("is asked for its last batches: those lost on the way are found (seeds 2, 1024)", async () => {
    const { publisher, rig, store } = await start();
    const prompt = new TestPrompt(1, 4);
    await publisher.publish([prompt.stored(0, 2)]);
    await expectHeld(store, prompt, [1, 1, 0, 0]);
    await publisher.publish([prompt.removed(1)], { lose: true });
    await publisher.publish([prompt.stored(2, 4)], { lose: true });
    await expectHeld(store, prompt, [1, 0, 1, 1]);
    expect(await rig.metric("kvatlas_ingester_gaps_total", { cause: "quiet" })).toBe(1);
    expect(await rig.metric("kvatlas_ingester_lost_gaps_total")).toBe(0);
    expect((await recordOf(store, address))?.state.incarnation).toBe(1);
  });

  it("shows that its buffer has rolled over what was lost", async () => {
    const { publisher, store } = await start({ bufferSteps: 2 });
    const prompt = new TestPrompt(1, 4);
    await publisher.publish([prompt.stored(0, 2)]);
    await expectHeld(store, prompt, [1, 1, 0, 0]);
    await publisher.publish([prompt.removed(1)], { lose: true });
    await publisher.publish([prompt.stored(2, 3)], { lose: true });
    await publisher.publish([prompt.stored(3, 4)], { lose: true });
    await expectHeld(store, prompt, [0, 0, 1, 1]);
  });

  it("may not have answered when it was asked first", async () => {
    const { publisher, store } = await start();
    const prompt = new TestPrompt(1, 4);
    await publisher.publish([prompt.stored(0, 2)]);
    await expectHeld(store, prompt, [1, 1, 0, 0]);
    publisher.muteReplay(true);
    const asked = publisher.replayRequests.length;
    await publisher.publish([prompt.stored(2, 4)], { lose: true });
    await eventually(() => expect(publisher.replayRequests.length).toBeGreaterThan(asked + 2));
    publisher.muteReplay(false);
    await expectHeld(store, prompt, [1, 1, 1, 1]);
  });
});

describe("batches that were given up because no replay was answered", () => {
  it.each(["hands over", "falls silent"])("are owed by whoever comes after the owner that %s", async (end) => {
    const { publisher, rig, store, pause } = await start();
    const [early, late] = [new TestPrompt(1, 3), new TestPrompt(2, 2)];
    await publisher.publish([early.stored()]);
    await expectHeld(store, early, [1, 1, 1]);
    publisher.muteReplay(true);
    await publisher.publish([early.removed(2)], { lose: true });
    await publisher.publish([late.stored()]);
    await expectHeld(store, late, [1, 1]);
    expect((await recordOf(store, address))?.meta.owedFrom).toBe(1);
    if (end === "falls silent") pause();
    else await rig.ingester.close();
    const next = await startTestIngester(store, testConfig([poolOf([{ address, publisher }])], { replayTimeoutMs: 100 }), "b");
    cleanups.push(() => next.ingester.close());
    await eventually(() => expect([...next.ingester.owned().values()]).toEqual([{ isCaughtUp: true }]));
    await expectHeld(store, early, [0, 0, 0]);
    publisher.muteReplay(false);
    await expectHeld(store, early, [1, 1, 0]);
    await expectHeld(store, late, [1, 1]);
    expect(await next.metric("kvatlas_ingester_incarnations_total", { cause: "recovered" })).toBe(1);
    await eventually(async () => expect((await recordOf(store, address))?.meta.owedFrom).toBeNull());
  });

  it("are brought in when one is, and what had been forgotten with them (seed 1034)", async () => {
    const { publisher, rig, store } = await start();
    const [early, late] = [new TestPrompt(1, 3), new TestPrompt(2, 2)];
    await publisher.publish([early.stored()]);
    await expectHeld(store, early, [1, 1, 1]);
    publisher.muteReplay(true);
    await publisher.publish([early.removed(2)], { lose: true });
    await publisher.publish([late.stored()]);
    await expectHeld(store, late, [1, 1]);
    await expectHeld(store, early, [0, 0, 0]);
    publisher.muteReplay(false);
    await expectHeld(store, early, [1, 1, 0]);
    await expectHeld(store, late, [1, 1]);
    expect(await rig.metric("kvatlas_ingester_incarnations_total", { cause: "recovered" })).toBe(1);
  });
});
