import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { isKvatlasError } from "../errors.ts";
import type { BlockKey } from "../types.ts";
import type { IndexOp, SequencedOps } from "./block-index.ts";
import { KEY_DIGITS, shardOf } from "./redis-keys.ts";
import { planCalls, type ScriptCall, splitByShard } from "./script-calls.ts";

const key = (n: number) => Math.imul(n, 0x9e3779b1).toString(16).replace("-", "f").padStart(KEY_DIGITS, "0") as BlockKey;
const begin = { seq: -1, part: null };

/** Block operations of calls, one `kind key` each, in order. */
function flat(calls: readonly ScriptCall[]): string[] {
  return calls.flatMap(({ runs }) => {
    const list: string[] = [];
    for (let i = 0; i < runs.length; i += 2) {
      const packed = runs[i + 1] ?? "";
      for (let at = 0; at < packed.length; at += KEY_DIGITS) list.push(`${runs[i]} ${packed.slice(at, at + KEY_DIGITS)}`);
    }
    return list;
  });
}

const ops = fc.array(
  fc.record({
    op: fc.constantFrom<IndexOp["op"]>("store", "remove", "confirm"),
    medium: fc.constantFrom<IndexOp["medium"]>("gpu", "cpu"),
    group: fc.integer({ min: 0, max: 1 }),
    keys: fc.array(fc.nat().map(key), { maxLength: 12 }),
  }),
  { maxLength: 4 },
);
const batches = fc.array(ops, { maxLength: 12 }).map((list) => list.map((each, i): SequencedOps => ({ seq: i * 2, ops: each })));

describe("planCalls", () => {
  it("groups small batches and cuts large ones", () => {
    const run = (count: number, from: number): IndexOp => ({
      op: "store",
      medium: "gpu",
      group: 0,
      keys: Array.from({ length: count }, (_, i) => key(from + i)),
    });
    const calls = planCalls(
      [
        { seq: 3, ops: [run(2, 0)] },
        { seq: 4, ops: [run(3, 10)] },
        { seq: 5, ops: [run(12, 20)] },
        { seq: 6, ops: [run(1, 90)] },
      ],
      { seq: 2, part: null },
      8,
      5,
    );
    expect(calls.map(({ expected, next, runs }) => ({ expected, next, blocks: flat([{ runs } as ScriptCall]).length }))).toEqual([
      { expected: { seq: 2, part: null }, next: { seq: 4, part: null }, blocks: 5 },
      { expected: { seq: 4, part: null }, next: { seq: 5, part: 5 }, blocks: 5 },
      { expected: { seq: 5, part: 5 }, next: { seq: 5, part: 10 }, blocks: 5 },
      { expected: { seq: 5, part: 10 }, next: { seq: 8, part: null }, blocks: 3 },
    ]);
  });

  it("does every operation once and in order, however it is cut, and goes on from any watermark on the way", () => {
    fc.assert(
      fc.property(batches, fc.integer({ min: 1, max: 30 }), fc.integer({ min: 1, max: 30 }), (list, maxOps, otherMaxOps) => {
        const last = list.at(-1)?.seq ?? 0;
        const whole = planCalls(list, begin, last, maxOps);
        expect(flat(whole)).toEqual(flat(planCalls(list, begin, last, 1_000_000)));
        let at: ScriptCall["expected"] = begin;
        for (const [i, call] of whole.entries()) {
          expect(call.expected).toEqual(at);
          expect(flat([call]).length).toBeLessThanOrEqual(maxOps);
          at = call.next;
          const done = flat(whole.slice(0, i + 1));
          expect([...done, ...flat(planCalls(list, at, last, otherMaxOps))]).toEqual(flat(whole));
        }
        expect(planCalls(list, at, last, maxOps)).toEqual([]);
      }),
    );
  });

  it("refuses a key that is not sixteen characters, naming it", () => {
    const plan = () => planCalls([{ seq: 0, ops: [{ op: "store", medium: "gpu", group: 0, keys: ["abc" as BlockKey] }] }], begin, 0, 10);
    expect(plan).toThrow(/"abc"/);
    try {
      plan();
    } catch (error) {
      expect(isKvatlasError(error, "KVATLAS_EVENT_MALFORMED")).toBe(true);
    }
  });
});

describe("splitByShard", () => {
  it("gives each shard its own keys, in order, and leaves out what does not concern it", () => {
    fc.assert(
      fc.property(batches, fc.constantFrom(1, 4, 16), (list, shards) => {
        const split = splitByShard(list, shards);
        expect(split).toHaveLength(shards);
        for (const [shard, mine] of split.entries()) {
          const expected = list.flatMap(({ seq, ops: all }) =>
            all.flatMap(({ op, medium, group, keys }) =>
              keys.filter((k) => shardOf(k, shards) === shard).map((k) => [seq, op, medium, group, k]),
            ),
          );
          const got = mine.flatMap(({ seq, ops: all }) =>
            all.flatMap(({ op, medium, group, keys }) => keys.map((k) => [seq, op, medium, group, k])),
          );
          expect(got).toEqual(expected);
          expect(mine.every(({ ops: some }) => some.some(({ keys }) => keys.length > 0))).toBe(true);
        }
      }),
    );
  });
});
