import { describe, expect, it } from "vitest";
import { parseLiveMessage, parseReplayMessage, peekRank, peekTimestamp, writeSeq } from "./frame.ts";

const empty = new Uint8Array(0);
const payload = new Uint8Array([1, 2, 3]);
const topic = new TextEncoder().encode("kv@10.0.0.1:8000@m");
const end = new Uint8Array(8).fill(0xff);

describe("parseLiveMessage", () => {
  it("reads topic, number and payload", () => {
    expect(parseLiveMessage([topic, writeSeq(258), payload])).toEqual({ topic: "kv@10.0.0.1:8000@m", seq: 258, payload });
  });

  it.each([
    ["two frames", [topic, writeSeq(1)]],
    ["four frames", [topic, empty, writeSeq(1), payload]],
    ["a short number", [topic, new Uint8Array(4), payload]],
    ["a number past 2^53", [topic, new Uint8Array(8).fill(0x7f), payload]],
    ["nothing", []],
  ])("refuses %s", (_, frames) => {
    expect(parseLiveMessage(frames)).toBeNull();
  });
});

describe("parseReplayMessage", () => {
  it("reads both layouts and both end markers", () => {
    expect(parseReplayMessage([empty, writeSeq(9), payload])).toEqual({ seq: 9, payload });
    expect(parseReplayMessage([empty, topic, writeSeq(9), payload])).toEqual({ seq: 9, payload });
    expect(parseReplayMessage([empty, end, empty])).toBe("end");
    expect(parseReplayMessage([empty, empty, end, empty])).toBe("end");
  });

  it.each([
    ["no empty frame", [topic, writeSeq(1), payload]],
    ["too many frames", [empty, topic, topic, writeSeq(1), payload]],
    ["an end number with a payload", [empty, end, payload]],
    ["a number alone", [empty, writeSeq(1)]],
  ])("refuses %s", (_, frames) => {
    expect(parseReplayMessage(frames)).toBeNull();
  });
});

describe("peeking into a batch", () => {
  /** [12.5, [["AllBlocksCleared"]], rank] */
  const batch = (...rank: number[]): Uint8Array =>
    Buffer.concat([
      Buffer.from([0x93, 0xcb, 0x40, 0x29, 0, 0, 0, 0, 0, 0, 0x91, 0x91, 0xb0]),
      Buffer.from("AllBlocksCleared"),
      Buffer.from(rank),
    ]);

  it("reads the time stamp", () => {
    expect(peekTimestamp(batch(0))).toBe(12.5);
    expect(peekTimestamp(new Uint8Array([0x81, 0xa2, 0x74, 0x73, 0x01, 0, 0, 0, 0, 0, 0, 0]))).toBeNull();
    expect(peekTimestamp(empty)).toBeNull();
  });

  it("reads a rank only where it is certain", () => {
    expect(peekRank(batch(0))).toBe(0);
    expect(peekRank(batch(7))).toBe(7);
    expect(peekRank(batch(0xc0))).toBe(0);
    expect(peekRank(batch(0xcc, 200))).toBeNull();
    expect(peekRank(batch(0xcd, 1, 5))).toBeNull();
    expect(peekRank(empty)).toBeNull();
  });
});
