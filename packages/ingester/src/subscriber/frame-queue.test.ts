import { describe, expect, it } from "vitest";
import { FrameQueue } from "./frame-queue.ts";

const frame = (seq: number, bytes = 10) => ({ seq, payload: new Uint8Array(bytes), receivedAt: 0 });

describe("FrameQueue", () => {
  it("keeps the order and counts bytes", () => {
    const queue = new FrameQueue(1_000_000);
    for (let seq = 0; seq < 5_000; seq++) queue.push(frame(seq));
    expect(queue.bytes).toBe(50_000);
    for (let seq = 0; seq < 5_000; seq++) expect(queue.shift()?.seq).toBe(seq);
    expect(queue.shift()).toBeUndefined();
    expect([queue.length, queue.bytes]).toEqual([0, 0]);
  });

  it("drops the newest past its bound and says so once", () => {
    const queue = new FrameQueue(25);
    for (const seq of [1, 2, 3, 4]) queue.push(frame(seq));
    expect([queue.length, queue.bytes, queue.dropped]).toEqual([2, 20, 2]);
    expect([queue.shift()?.seq, queue.shift()?.seq, queue.shift()]).toEqual([1, 2, undefined]);
    expect([queue.takeOverflow(), queue.takeOverflow()]).toEqual([true, false]);
  });

  it("lets a frame above the whole bound through alone", () => {
    const queue = new FrameQueue(25);
    queue.push(frame(1, 100));
    queue.push(frame(2));
    expect([queue.shift()?.seq, queue.shift()]).toEqual([1, undefined]);
  });

  it("tells its listener of every push", () => {
    const queue = new FrameQueue(15);
    let pushes = 0;
    queue.onPush(() => pushes++);
    queue.push(frame(1));
    queue.push(frame(2));
    expect(pushes).toBe(2);
  });
});
