import fc from "fast-check";
import { describe, expect, it } from "vitest";
import type { EndpointId } from "../types.ts";
import { firstPositions, PrefixProbe } from "./prefix-probe.ts";
import { mediaByRank } from "./redis-keys.ts";

interface Residency {
  readonly endpoint: EndpointId;
  /** Blocks held in a medium of each rank or better; ascending. */
  readonly lengths: readonly number[];
}

/** Probes a chain whose residency is known; only positions that were asked for can be looked at. */
function probe(blocks: number, residencies: readonly Residency[]): { lengths: (readonly number[])[]; rounds: number; reads: number } {
  const read = new Set(firstPositions(blocks));
  const rankAt = (position: number, endpoint: EndpointId): number => {
    if (!read.has(position)) throw new Error(`position ${position} has not been read`);
    const lengths = residencies.find((residency) => residency.endpoint === endpoint)?.lengths ?? [];
    const rank = lengths.findIndex((length) => position < length);
    return rank === -1 ? mediaByRank.length : rank;
  };
  const prober = new PrefixProbe(
    blocks,
    residencies.map(({ endpoint }) => endpoint),
    rankAt,
  );
  let rounds = 1;
  for (let positions = prober.next(); positions.length > 0; positions = prober.next()) {
    for (const position of positions) {
      expect(position).toBeGreaterThanOrEqual(0);
      expect(position).toBeLessThan(blocks);
      read.add(position);
    }
    rounds += 1;
    prober.observe(positions);
  }
  return { lengths: residencies.map((_, i) => prober.lengths(i)), rounds, reads: read.size };
}

const uniform = (endpoint: string, length: number): Residency => ({
  endpoint: endpoint as EndpointId,
  lengths: mediaByRank.map(() => length),
});

describe("the first round", () => {
  it("looks near the front, near the end, and in ever larger steps between", () => {
    expect(firstPositions(1)).toEqual([0]);
    expect(firstPositions(2)).toEqual([0, 1]);
    expect(firstPositions(40)).toEqual([0, 1, 3, 7, 8, 15, 24, 31, 32, 36, 38, 39]);
  });
});

describe("PrefixProbe", () => {
  it("finds every length of short chains", () => {
    for (let blocks = 1; blocks <= 70; blocks += 1) {
      for (let length = 1; length <= blocks; length += 1)
        expect(probe(blocks, [uniform("a", length)]).lengths).toEqual([[length, length, length, length]]);
    }
  });

  it("needs at most three rounds for any number of endpoints, media and blocks", () => {
    const residencies = fc.integer({ min: 1, max: 7_000 }).chain((blocks) =>
      fc.record({
        blocks: fc.constant(blocks),
        held: fc.array(fc.array(fc.integer({ min: 0, max: blocks }), { minLength: 4, maxLength: 4 }), { maxLength: 20 }),
      }),
    );
    fc.assert(
      fc.property(residencies, ({ blocks, held }) => {
        const list = held.map((lengths, i) => ({ endpoint: `e${i}` as EndpointId, lengths: [...lengths].sort((a, b) => a - b) }));
        const result = probe(blocks, list);
        expect(result.lengths).toEqual(list.map(({ lengths }) => lengths));
        expect(result.rounds).toBeLessThanOrEqual(3);
      }),
    );
  });

  it("reads few blocks of a long chat whose last turn is new", () => {
    const { rounds, reads } = probe(2_000, [uniform("a", 1_987), ...Array.from({ length: 7 }, (_, i) => uniform(`b${i}`, 40))]);
    expect(rounds).toBeLessThanOrEqual(3);
    expect(reads).toBeLessThan(60);
  });

  it("never claims a block beyond a hole it has seen", () => {
    const blocks = 100;
    const prober = new PrefixProbe(blocks, ["a" as EndpointId], (position) => (position === 7 ? mediaByRank.length : 0));
    for (let positions = prober.next(); positions.length > 0; positions = prober.next()) prober.observe(positions);
    expect(prober.lengths(0).at(-1)).toBe(7);
  });
});
