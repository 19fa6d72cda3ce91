import { describe, expect, it } from "vitest";
import { EngineStream } from "./engine-stream.ts";

const entry = (seq: number, timestampSeconds: number, fill = seq) => ({
  seq,
  line: 1,
  payload: Uint8Array.of(seq, timestampSeconds, fill),
  batch: { timestampSeconds, events: [], rank: 0, wireForm: null, skipped: new Map() },
});

const seqs = (stream: EngineStream): number[][] => stream.runs.map((run) => run.batches.map(({ seq }) => seq));

describe("EngineStream", () => {
  it("fills holes of the live stream from a replay that comes much later", () => {
    const stream = new EngineStream();
    for (const seq of [2, 3, 6]) expect(stream.addLive(entry(seq, seq), seq)).toBe("new");
    for (const seq of [0, 1, 2, 3, 4, 5, 6]) expect(stream.addReplay(entry(seq, seq))).toBe([2, 3, 6].includes(seq) ? "duplicate" : "new");
    expect(seqs(stream)).toEqual([[0, 1, 2, 3, 4, 5, 6]]);
    expect(stream.runs[0]?.batches.map(({ receivedMs }) => receivedMs)).toEqual([null, null, 2, 3, null, null, 6]);
  });

  it("begins a new run where the numbers go back", () => {
    const stream = new EngineStream();
    for (const [seq, ts] of [
      [0, 1],
      [1, 2],
      [0, 9],
      [1, 10],
    ] as const)
      stream.addLive(entry(seq, ts), ts);
    expect(seqs(stream)).toEqual([
      [0, 1],
      [0, 1],
    ]);
    expect(stream.runs.map(({ isRestart }) => isRestart)).toEqual([false, true]);
  });

  it("sees a restart in a replay before the live socket tells of it", () => {
    const stream = new EngineStream();
    for (const seq of [0, 1, 2]) stream.addLive(entry(seq, seq + 1), seq);
    for (const seq of [0, 1]) stream.addReplay(entry(seq, 50 + seq));
    stream.addLive(entry(2, 52), 60);
    expect(seqs(stream)).toEqual([
      [0, 1, 2],
      [0, 1, 2],
    ]);
  });

  it("takes the same bytes twice for the same batch", () => {
    const stream = new EngineStream();
    expect([0, 0, 1, 0].map((seq) => stream.addLive(entry(seq, seq), 0))).toEqual(["new", "duplicate", "new", "duplicate"]);
    expect(seqs(stream)).toEqual([[0, 1]]);
  });

  it("reports a replay that contradicts the live stream", () => {
    const stream = new EngineStream();
    stream.addLive(entry(0, 1), 0);
    expect(stream.addReplay(entry(0, 1, 77))).toBe("contradiction");
  });
});
