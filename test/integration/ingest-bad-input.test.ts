import { createLogger } from "@kvatlas/shared/logger";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { eventually } from "../support/eventually.ts";
import { IngestBed, joined } from "../support/ingest-bed.ts";
import { blockSize, poolOf, TestPrompt } from "../support/ingest-rig.ts";
import type { TestPublisher } from "../support/test-publisher.ts";

/* Whatever is wrong with what a publisher sends ends in a counter and in a log line that names the endpoint, and costs no good event. */

const address = "127.0.0.1:1";
let bed: IngestBed;
beforeEach(() => {
  bed = new IngestBed();
});
afterEach(() => bed.close());

const known = new TestPrompt(1, 2);
const skipped = (reason: string) => ["kvatlas_ingester_skipped_total", { reason }] as const;
const frames = (outcome: string) => ["kvatlas_ingester_frames_total", { outcome }] as const;
const event = (more: Readonly<Record<string, unknown>>) => (publisher: TestPublisher) => publisher.publish([known.stored(0, 1, more)]);

interface BadInput {
  readonly name: string;
  readonly send: (publisher: TestPublisher) => Promise<unknown>;
  readonly counted: readonly [metric: string, labels: Readonly<Record<string, string>>];
}

const inputs: readonly BadInput[] = [
  { name: "a message of one frame", send: (publisher) => publisher.sendFrames(["alone"]), counted: frames("malformed") },
  { name: "a short number", send: (publisher) => publisher.sendFrames(["", "short", "x"]), counted: frames("malformed") },
  {
    name: "a number beyond all bounds",
    send: (publisher) => publisher.sendFrames(["", new Uint8Array(8).fill(0xff), "x"]),
    counted: frames("malformed"),
  },
  {
    name: "bytes that are no batch",
    send: (publisher) => publisher.publishRaw(new Uint8Array([0xc1, 1])),
    counted: skipped("undecodable batch"),
  },
  { name: "an empty payload", send: (publisher) => publisher.publishRaw(new Uint8Array(0)), counted: skipped("undecodable batch") },
  {
    name: "a batch that ends early",
    send: (publisher) => publisher.publishRaw(new Uint8Array([0x93, 0xcb, 0x41])),
    counted: skipped("undecodable batch"),
  },
  { name: "an event that is none", send: (publisher) => publisher.publish([7]), counted: skipped("not an event") },
  { name: "an unknown event", send: (publisher) => publisher.publish([{ type: "BlockInvented" }]), counted: skipped("unknown tag") },
  { name: "an event without its fields", send: (publisher) => publisher.publish([["BlockStored"]]), counted: skipped("short event") },
  { name: "a store without hashes", send: (publisher) => publisher.publish([{ type: "BlockStored" }]), counted: skipped("no hashes") },
  { name: "a hash that is none", send: event({ block_hashes: ["x"] }), counted: skipped("bad hash") },
  { name: "a parent that is none", send: event({ parent_block_hash: [1] }), counted: skipped("bad parent") },
  { name: "tokens that are none", send: event({ token_ids: [-1] }), counted: skipped("bad token ids") },
  { name: "a block size that is none", send: event({ block_size: "x" }), counted: skipped("bad block size") },
  { name: "an adapter that is none", send: event({ lora_id: "x" }), counted: skipped("bad lora id") },
  { name: "an unknown medium", send: event({ medium: "TAPE" }), counted: skipped("unknown medium") },
  { name: "a group that is none", send: event({ group_idx: -1 }), counted: skipped("bad group") },
  { name: "extra keys that are none", send: event({ extra_keys: 3 }), counted: skipped("bad extra keys") },
  { name: "extra keys of other blocks", send: event({ extra_keys: [null, null] }), counted: skipped("extra keys do not pair with hashes") },
  { name: "a lookahead that is none", send: event({ lookahead_token_ids: [[-1]] }), counted: skipped("bad lookahead") },
];

describe("bad input", () => {
  it("is counted, and named in the log with the endpoint", async () => {
    const lines: string[] = [];
    const publisher = await bed.publisher();
    const logger = createLogger({ service: "test", destination: { write: (line) => void lines.push(line) } });
    const rig = await bed.ingester([poolOf([{ address, publisher }])], {}, "a", { logger });
    await joined(publisher, rig);
    // Settles block size and key scheme.
    await publisher.publish([known.stored()]);
    await bed.expectHeld(address, known, [1, 1]);
    for (const { name, send, counted } of inputs) {
      const before = await rig.metric(...counted);
      await send(publisher);
      await eventually(async () => expect(await rig.metric(...counted), name).toBeGreaterThan(before));
      const [, { reason }] = counted;
      const said = lines.filter(
        (line) => line.includes(`"endpoint":"${address}"`) && (reason === undefined || line.includes(`"reason":"${reason}"`)),
      );
      expect(said.length, name).toBeGreaterThan(0);
    }
    // All of it was passed over, and nothing else.
    const good = new TestPrompt(2, 3);
    await publisher.publish([good.stored()]);
    await bed.expectHeld(address, good, [1, 1, 1]);
    expect(await rig.metric("kvatlas_ingester_lost_gaps_total")).toBe(0);
    expect(await rig.metric("kvatlas_ingester_incarnations_total")).toBe(0);
  });

  it("is named once however often it comes", async () => {
    const lines: string[] = [];
    const publisher = await bed.publisher();
    const logger = createLogger({ service: "test", destination: { write: (line) => void lines.push(line) } });
    const rig = await bed.ingester([poolOf([{ address, publisher }])], {}, "a", { logger });
    await joined(publisher, rig);
    for (let i = 0; i < 200; i++) await publisher.publish([{ type: "BlockInvented" }]);
    await eventually(async () => expect(await rig.metric(...skipped("unknown tag"))).toBe(200));
    expect(lines.filter((line) => line.includes("unknown tag")).length).toBe(1);
  });

  it("in answers to a replay is counted, and the replay goes on", async () => {
    const publisher = await bed.publisher();
    publisher.answerFirst([
      ["", "x"],
      ["", "", "short", ""],
      ["", "", new Uint8Array(8).fill(0xff), "an end with a payload"],
    ]);
    const prompt = new TestPrompt(3, 1);
    await publisher.publish([prompt.stored(0, 1, { token_ids: prompt.tokens.slice(0, blockSize) })]);
    const rig = await bed.ingester([poolOf([{ address, publisher }])]);
    await bed.expectHeld(address, prompt, [1]);
    await eventually(async () => expect(await rig.metric(...frames("unusable replay"))).toBe(3));
  });
});
