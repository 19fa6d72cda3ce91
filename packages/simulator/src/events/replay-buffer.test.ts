import { describe, expect, it } from "vitest";
import { ReplayBuffer } from "./replay-buffer.ts";

const payload = Buffer.alloc(0);

describe("ReplayBuffer", () => {
  it("keeps the last batches and finds the first one asked for, over holes too", () => {
    const buffer = new ReplayBuffer(1000);
    for (let sequence = 0; sequence < 5000; sequence += 2) buffer.push({ sequence, payload });
    expect(buffer.size).toBe(1000);
    expect(buffer.from(0)[0]?.sequence).toBe(3000);
    expect(buffer.from(4001).map((batch) => batch.sequence)[0]).toBe(4002);
    expect(buffer.from(4998)).toHaveLength(1);
    expect(buffer.from(5000)).toEqual([]);
    expect(buffer.from(Number.MAX_VALUE)).toEqual([]);
    buffer.clear();
    expect([buffer.size, buffer.from(0)]).toEqual([0, []]);
  });
});
