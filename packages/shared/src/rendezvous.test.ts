import { describe, expect, it } from "vitest";
import { pickByRendezvous, rankByRendezvous } from "./rendezvous.ts";

const members = Array.from({ length: 8 }, (_, i) => `10.0.0.${i}:8000`);
const keys = Array.from({ length: 4000 }, (_, i) => `key-${i}`);

describe("rendezvous hashing", () => {
  it("does not depend on the order of the members", () => {
    for (const key of keys.slice(0, 50)) expect(rankByRendezvous(key, members)).toEqual(rankByRendezvous(key, members.toReversed()));
  });

  it("picks the first of the ranking", () => {
    for (const key of keys.slice(0, 200)) expect(pickByRendezvous(key, members)).toBe(rankByRendezvous(key, members)[0]);
    expect(pickByRendezvous("key", [])).toBeUndefined();
    expect(rankByRendezvous("key", [])).toEqual([]);
  });

  it("moves only the keys of a member that leaves", () => {
    const left = members.slice(1);
    for (const key of keys) {
      const before = pickByRendezvous(key, members);
      if (before !== members[0]) expect(pickByRendezvous(key, left)).toBe(before);
    }
  });

  it("spreads keys evenly", () => {
    const counts = new Map<string | undefined, number>();
    for (const key of keys) counts.set(pickByRendezvous(key, members), (counts.get(pickByRendezvous(key, members)) ?? 0) + 1);
    for (const member of members) expect(Math.abs((counts.get(member) ?? 0) - 500)).toBeLessThan(120);
  });

  it("never changes: placements outlive a release", () => {
    expect(rankByRendezvous("key", ["a", "b", "c", "d"])).toMatchInlineSnapshot(`
      [
        "c",
        "a",
        "b",
        "d",
      ]
    `);
  });
});
