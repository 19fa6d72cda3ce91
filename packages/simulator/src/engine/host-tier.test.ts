import { describe, expect, it } from "vitest";
import { HostTier } from "./host-tier.ts";

describe("HostTier", () => {
  it("keeps the most recently used blocks and reports what goes", () => {
    const tier = new HostTier(3);
    expect(tier.store(["a", "b", "c"])).toEqual({ stored: ["a", "b", "c"], evicted: [] });
    expect(tier.store(["a", "d"])).toEqual({ stored: ["d"], evicted: ["b"] });
    expect([...tier.hashes()]).toEqual(["c", "a", "d"]);
  });

  it("counts hits up to the first hole or the limit", () => {
    const tier = new HostTier(10);
    tier.store(["b", "c", "e"]);
    expect(tier.leadingHits(["a", "b", "c", "d", "e"], 1, 5)).toBe(2);
    expect(tier.leadingHits(["a", "b", "c", "d", "e"], 1, 2)).toBe(1);
    expect(tier.leadingHits(["a", "b", "c", "d", "e"], 0, 5)).toBe(0);
  });

  it("keeps nothing without room", () => {
    expect(new HostTier(0).store(["a"])).toEqual({ stored: [], evicted: [] });
  });
});
