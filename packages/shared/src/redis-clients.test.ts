import { describe, expect, it } from "vitest";
import { reconnectDelay } from "./redis-clients.ts";

describe("the wait before another attempt to connect", () => {
  it("doubles up to its bound, and is nowhere less than half of that", () => {
    const least = Array.from({ length: 8 }, (_, i) => reconnectDelay(i + 1, 1_000, () => 0));
    expect(least).toEqual([25, 50, 100, 200, 400, 500, 500, 500]);
    const most = Array.from({ length: 8 }, (_, i) => reconnectDelay(i + 1, 1_000, () => 1 - Number.EPSILON));
    for (const [i, delayMs] of most.entries()) expect(delayMs / 2).toBeCloseTo(least[i] ?? 0, 6);
    expect(reconnectDelay(1_000_000, 2_000, () => 0)).toBe(1_000);
  });

  it("spreads clients that lost a server together over all of its second half", () => {
    const delays = Array.from({ length: 50 }, (_, i) => reconnectDelay(6, 1_000, () => i / 50)).sort((a, b) => a - b);
    for (let i = 1; i < delays.length; i += 1) expect((delays[i] ?? 0) - (delays[i - 1] ?? 0)).toBeCloseTo(10, 6);
  });
});
