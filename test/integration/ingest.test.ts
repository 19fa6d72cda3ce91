import { encode } from "@msgpack/msgpack";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { eventually } from "../support/eventually.ts";
import { IngestBed, joined } from "../support/ingest-bed.ts";
import { cleared, heldBy, poolOf, recordOf, TestPrompt, type testConfig } from "../support/ingest-rig.ts";
import { seqFrame, type TestPublisher } from "../support/test-publisher.ts";

const address = "127.0.0.1:1";
let bed: IngestBed;
beforeEach(() => {
  bed = new IngestBed();
});
afterEach(() => bed.close());

const ingest = (
  publisher: TestPublisher,
  prefixCache: Parameters<typeof poolOf>[1] = {},
  settings: Parameters<typeof testConfig>[1] = {},
) => bed.ingester([poolOf([{ address, publisher }], prefixCache)], settings);

describe.each(["plain", "topic"] as const)("one publisher, replay messages in the %s layout", (layout) => {
  it("brings in what was published before and after it came", async () => {
    const { store } = bed;
    const publisher = await bed.publisher({ layout });
    const [early, late] = [new TestPrompt(1, 3), new TestPrompt(2, 2)];
    await publisher.publish([early.stored(0, 2)]);
    await publisher.publish([early.stored(2, 3)]);
    const rig = await ingest(publisher);
    await eventually(async () => expect(await heldBy(store, address, early.keys)).toEqual([1, 1, 1]));
    await joined(publisher, rig);
    await publisher.publish([late.stored(), early.removed(2)]);
    await eventually(async () => expect(await heldBy(store, address, late.keys)).toEqual([1, 1]));
    expect(await heldBy(store, address, early.keys)).toEqual([1, 1, 0]);
    expect((await recordOf(store, address))?.meta).toMatchObject({
      pool: "p",
      model: "m",
      rank: 0,
      scope: expect.stringContaining("sha256_cbor"),
    });
  });

  it("fills a hole by replay, in order", async () => {
    const { store } = bed;
    const publisher = await bed.publisher({ layout });
    const rig = await ingest(publisher);
    await joined(publisher, rig);
    const prompt = new TestPrompt(1, 4);
    await publisher.publish([prompt.stored(0, 1)]);
    await publisher.publish([prompt.stored(1, 3)], { lose: true });
    await publisher.publish([prompt.removed(2)], { lose: true });
    await publisher.publish([prompt.stored(2, 4)]);
    await eventually(async () => expect(await heldBy(store, address, prompt.keys)).toEqual([1, 1, 1, 1]));
    expect(await rig.metric("kvatlas_ingester_gaps_total", { cause: "live" })).toBe(1);
    expect(await rig.metric("kvatlas_ingester_lost_gaps_total")).toBe(0);
    expect((await recordOf(store, address))?.state.incarnation).toBe(1);
  });
});

describe("one publisher", () => {
  it("counts copies", async () => {
    const { store } = bed;
    const publisher = await bed.publisher();
    const rig = await ingest(publisher);
    await joined(publisher, rig);
    const prompt = new TestPrompt(1, 2);
    await publisher.publish([prompt.stored()]);
    await publisher.publish([prompt.stored(1, 2)]);
    await eventually(async () => expect(await heldBy(store, address, prompt.keys)).toEqual([1, 2]));
    await publisher.publish([prompt.removed(1)]);
    await eventually(async () => expect(await heldBy(store, address, prompt.keys)).toEqual([1, 1]));
    await publisher.publish([prompt.removed(1)]);
    await eventually(async () => expect(await heldBy(store, address, prompt.keys)).toEqual([1, 0]));
  });

  it("forgets everything at a clear, and keeps the rest of that batch", async () => {
    const { store } = bed;
    const publisher = await bed.publisher();
    const rig = await ingest(publisher);
    await joined(publisher, rig);
    const [before, after] = [new TestPrompt(1, 2), new TestPrompt(2, 2)];
    await publisher.publish([before.stored()]);
    await eventually(async () => expect(await heldBy(store, address, before.keys)).toEqual([1, 1]));
    await publisher.publish([before.stored(), cleared, after.stored()]);
    await eventually(async () => expect(await heldBy(store, address, after.keys)).toEqual([1, 1]));
    expect(await heldBy(store, address, before.keys)).toEqual([0, 0]);
    expect((await recordOf(store, address))?.state).toMatchObject({ incarnation: 2, from: 1 });
  });

  it("notices a restart in place by numbers that go back", async () => {
    const { store } = bed;
    const publisher = await bed.publisher();
    const rig = await ingest(publisher);
    await joined(publisher, rig);
    const [before, after] = [new TestPrompt(1, 2), new TestPrompt(2, 2)];
    await publisher.publish([before.stored(0, 1)]);
    await publisher.publish([before.stored(1, 2)]);
    await eventually(async () => expect(await heldBy(store, address, before.keys)).toEqual([1, 1]));
    publisher.restart();
    await publisher.publish([after.stored(0, 1)]);
    await publisher.publish([after.stored(1, 2)]);
    await eventually(async () => expect(await heldBy(store, address, after.keys)).toEqual([1, 1]));
    expect(await heldBy(store, address, before.keys)).toEqual([0, 0]);
    expect(await rig.metric("kvatlas_ingester_incarnations_total", { cause: "restart" })).toBe(1);
  });

  it("notices a restart by a replay that shows another batch under a known number", async () => {
    const { store } = bed;
    const publisher = await bed.publisher();
    const rig = await ingest(publisher);
    await joined(publisher, rig);
    const [before, after] = [new TestPrompt(1, 2), new TestPrompt(2, 4)];
    await publisher.publish([before.stored()]);
    await eventually(async () => expect(await heldBy(store, address, before.keys)).toEqual([1, 1]));
    publisher.restart();
    for (let block = 0; block < 3; block++) await publisher.publish([after.stored(block, block + 1)], { lose: true });
    await publisher.publish([after.stored(3, 4)]);
    await eventually(async () => expect(await heldBy(store, address, after.keys)).toEqual([1, 1, 1, 1]));
    expect(await heldBy(store, address, before.keys)).toEqual([0, 0]);
  });

  it("joins a publisher whose buffer has rolled", async () => {
    const { store } = bed;
    const publisher = await bed.publisher({ bufferSteps: 2 });
    const prompts = [1, 2, 3, 4].map((seed) => new TestPrompt(seed, 1));
    for (const prompt of prompts) await publisher.publish([prompt.stored()]);
    const rig = await ingest(publisher);
    await joined(publisher, rig);
    await eventually(async () =>
      expect(await Promise.all(prompts.map((prompt) => heldBy(store, address, prompt.keys)))).toEqual([[0], [0], [1], [1]]),
    );
    expect(await rig.metric("kvatlas_ingester_lost_gaps_total")).toBe(0);
  });

  it.each([
    ["reset", [0], 2],
    ["keep", [1], 1],
  ] as const)("%s: what it does about events that no replay brings back", async (onGap, heldBefore, incarnation) => {
    const { store } = bed;
    const publisher = await bed.publisher();
    const rig = await ingest(publisher, { onGap });
    await joined(publisher, rig);
    const [before, after] = [new TestPrompt(1, 1), new TestPrompt(2, 1)];
    await publisher.publish([before.stored()]);
    await publisher.publish([before.removed(0)], { vanish: true });
    await publisher.publish([after.stored()]);
    await eventually(async () => expect(await heldBy(store, address, after.keys)).toEqual([1]));
    expect(await heldBy(store, address, before.keys)).toEqual(heldBefore);
    expect(await rig.metric("kvatlas_ingester_lost_gaps_total", { cause: "rolled" })).toBe(1);
    await eventually(async () =>
      expect(await recordOf(store, address)).toMatchObject({
        state: { incarnation },
        meta: { findings: { "events-lost": expect.any(String) } },
      }),
    );
  });

  it("works without a replay socket, and resets at a hole", async () => {
    const { store } = bed;
    const publisher = await bed.publisher({ replay: false });
    const rig = await ingest(publisher);
    await joined(publisher, rig);
    const [before, after] = [new TestPrompt(1, 1), new TestPrompt(2, 1)];
    await publisher.publish([before.stored()]);
    await eventually(async () => expect(await heldBy(store, address, before.keys)).toEqual([1]));
    await publisher.publish([], { lose: true });
    await publisher.publish([after.stored()]);
    await eventually(async () => expect(await heldBy(store, address, after.keys)).toEqual([1]));
    expect(await heldBy(store, address, before.keys)).toEqual([0]);
    expect(await rig.metric("kvatlas_ingester_lost_gaps_total", { cause: "no replay" })).toBe(1);
  });

  it("gives a silent replay up and goes on", async () => {
    const { store } = bed;
    const publisher = await bed.publisher();
    const rig = await ingest(publisher, {}, { replayTimeoutMs: 100 });
    await joined(publisher, rig);
    const [before, after] = [new TestPrompt(1, 1), new TestPrompt(2, 1)];
    await publisher.publish([before.stored()]);
    publisher.muteReplay(true);
    await publisher.publish([before.removed(0)], { lose: true });
    await publisher.publish([after.stored()]);
    await eventually(async () => expect(await heldBy(store, address, after.keys)).toEqual([1]));
    expect(await heldBy(store, address, before.keys)).toEqual([0]);
    expect(await rig.metric("kvatlas_ingester_replays_total", { outcome: "silent" })).toBe(1);
  });

  it.each([true, false])("leaves an endpoint alone that two publishers speak for (replay: %s)", async (replay) => {
    const { store } = bed;
    const publisher = await bed.publisher({ replay });
    const rig = await ingest(publisher);
    await joined(publisher, rig);
    const [one, twin] = [new TestPrompt(1, 12), new TestPrompt(2, 12)];
    for (let block = 0; block < 6; block++) await publisher.publish([one.stored(block, block + 1)]);
    await eventually(async () => expect(await heldBy(store, address, one.keys.slice(5, 6))).toEqual([1]));
    for (let block = 0; block < 6; block++) {
      await publisher.sendFrames([
        "",
        seqFrame(block),
        encode([2_000_000_000 + block, [twin.stored(block, block + 1)], 0], { useBigInt64: true }),
      ]);
      await publisher.publish([one.stored(block + 6, block + 7)]);
    }
    await eventually(async () => expect((await recordOf(store, address))?.meta.findings).toHaveProperty("two-publishers"));
    expect(await rig.metric("kvatlas_ingester_incarnations_total", { cause: "two publishers" })).toBe(1);
    const nothing = one.keys.map(() => 0);
    await eventually(async () => expect(await heldBy(store, address, one.keys)).toEqual(nothing));
    await eventually(async () => expect(await heldBy(store, address, twin.keys)).toEqual(nothing));
  });

  it("passes over malformed messages, payloads and events", async () => {
    const { store } = bed;
    const publisher = await bed.publisher();
    const rig = await ingest(publisher);
    await joined(publisher, rig);
    const prompt = new TestPrompt(1, 2);
    await publisher.sendFrames(["only one"]);
    await publisher.sendFrames(["", "short", "x"]);
    await publisher.publishRaw(new Uint8Array([0xc1, 1, 2]));
    await publisher.publish([{ type: "BlockInvented", x: 1 }, 7, ["BlockStored"], prompt.stored()]);
    await eventually(async () => expect(await heldBy(store, address, prompt.keys)).toEqual([1, 1]));
    expect(await rig.metric("kvatlas_ingester_frames_total", { outcome: "malformed" })).toBe(2);
    expect(await rig.metric("kvatlas_ingester_skipped_total", { reason: "undecodable batch" })).toBe(1);
    await eventually(async () => expect((await recordOf(store, address))?.meta.findings).toHaveProperty("undecodable-events"));
  });

  it("reports what contradicts its configuration, and goes by the events", async () => {
    const { store } = bed;
    const publisher = await bed.publisher();
    const rig = await ingest(publisher, { blockSize: 16, hashAlgo: "sha256", hashSeed: "7" });
    await joined(publisher, rig);
    const prompt = new TestPrompt(1, 2);
    await publisher.publish([prompt.stored()]);
    await eventually(async () => expect(await heldBy(store, address, prompt.keys)).toEqual([1, 1]));
    expect(Object.keys((await recordOf(store, address))?.meta.findings ?? {})).toEqual(
      expect.arrayContaining(["block-size", "hash-scheme"]),
    );
  });
});
