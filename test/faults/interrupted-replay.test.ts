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
  testConfig,
} from "../support/ingest-rig.ts";
import { TestPublisher } from "../support/test-publisher.ts";

/* An owner that has to go while it waits for a replay. Found by random schedules of faults (`npm run faults`, seed 9195 of the plain arrangement). */

const address = "127.0.0.1:1";
const cleanups: (() => Promise<unknown>)[] = [];

afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

describe("an owner that goes in the middle of a replay", () => {
  it.each(["reset", "keep"] as const)("gives nothing up: the next one fills the gap (onGap: %s)", async (onGap) => {
    const store = memoryStore();
    const publisher = await TestPublisher.start();
    cleanups.push(() => publisher.close());
    const own = async (instanceId: string, replayTimeoutMs: number): Promise<TestIngester> => {
      const rig = await startTestIngester(
        store,
        testConfig([poolOf([{ address, publisher }], { onGap })], { replayTimeoutMs }),
        instanceId,
      );
      cleanups.push(() => rig.ingester.close());
      await eventually(() => expect([...rig.ingester.owned().values()]).toEqual([{ isCaughtUp: true }]));
      return rig;
    };
    const [early, late] = [new TestPrompt(1, 3), new TestPrompt(2, 2)];
    const first = await own("a", 20_000);
    await eventually(() => expect(publisher.subscribers).toBeGreaterThan(0));
    await publisher.publish([early.stored()]);
    await eventually(async () => expect(await heldBy(store, address, early.keys)).toEqual([1, 1, 1]));
    publisher.muteReplay(true);
    const asked = publisher.replayRequests.length;
    await publisher.publish([early.removed(2)], { lose: true });
    await publisher.publish([late.stored()]);
    await eventually(() => expect(publisher.replayRequests.length).toBeGreaterThan(asked));
    await first.ingester.close();
    expect(await first.metric("kvatlas_ingester_lost_gaps_total")).toBe(0);
    expect((await recordOf(store, address))?.state.incarnation).toBe(1);
    expect(await heldBy(store, address, early.keys)).toEqual([1, 1, 1]);
    publisher.muteReplay(false);
    const next = await own("b", 500);
    await eventually(async () => expect(await heldBy(store, address, early.keys)).toEqual([1, 1, 0]));
    await eventually(async () => expect(await heldBy(store, address, late.keys)).toEqual([1, 1]));
    expect(await next.metric("kvatlas_ingester_lost_gaps_total")).toBe(0);
    expect((await recordOf(store, address))?.state.incarnation).toBe(1);
  });
});
