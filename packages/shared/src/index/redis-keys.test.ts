import fc from "fast-check";
import { describe, expect, it } from "vitest";
import type { BlockKey, EndpointId, EngineHash, ScopeId } from "../types.ts";
import {
  blockKeyOf,
  compareWatermarks,
  createRedisKeys,
  formatEntry,
  formatPosition,
  holderField,
  nameField,
  parseEntry,
  parseHolderField,
  parsePosition,
  partsOfBlock,
  partsOfNames,
  scopeTag,
  shardOf,
} from "./redis-keys.ts";

const keys = createRedisKeys("kva");
const scope = "qwen.b16" as ScopeId;
const space = keys.space(scopeTag(scope));
const endpoint = "10.0.0.5:8000/1" as EndpointId;
const key = "00ff00ff00ff00ff" as BlockKey;

describe("names", () => {
  it("spells keys as the schema documents them", () => {
    expect([
      space.block(3, key),
      space.seq(3),
      space.blockPattern,
      keys.meta(endpoint),
      keys.lease(endpoint),
      space.names(3, endpoint, 7),
      space.sweepPattern,
      keys.inflight("r1"),
    ]).toMatchInlineSnapshot(`
      [
        "kva:{CZX.3}:b:00ff00ff00ff00ff",
        "kva:{CZX.3}:seq",
        "kva:{CZX.*}:b:*",
        "kva:ep:{10.0.0.5:8000/1}:meta",
        "kva:ep:{10.0.0.5:8000/1}:lease",
        "kva:{CZX.3}:h:10.0.0.5:8000/1:7",
        "kva:{CZX.*}:[bh]:*",
        "kva:inflight:r1",
      ]
    `);
    expect(blockKeyOf(space.block(3, key))).toBe(key);
    expect(partsOfNames(space.names(35, endpoint, 7))).toEqual({ shard: 35, owner: `${endpoint}:7` });
    expect([keys.meta(endpoint), space.names(3, endpoint, Number.NaN), space.block(3, key)].map(partsOfNames)).toEqual([null, null, null]);
    expect(partsOfBlock(space.block(35, key))).toEqual({ spacePrefix: space.prefix, shard: 35, key });
    expect([space.seq(3), keys.meta(endpoint), space.block(3, "00" as BlockKey)].map(partsOfBlock)).toEqual([null, null, null]);
  });

  it("names a block by its engine's hash, and by group where there are several", () => {
    const hash = "0123456789abcdef" as EngineHash;
    expect([nameField(hash, 0), nameField(hash, 2)]).toEqual([hash, `${hash}#2`]);
  });

  it("names the holder by endpoint, and by group where there are several", () => {
    expect(holderField(endpoint, 0)).toBe("10.0.0.5:8000/1");
    expect(holderField(endpoint, 2)).toBe("10.0.0.5:8000/1#2");
    expect(parseHolderField("10.0.0.5:8000/1#2")).toEqual({ endpoint, group: 2 });
    expect(parseHolderField("[::1]:8000")).toEqual({ endpoint: "[::1]:8000", group: 0 });
  });
});

describe("scope tags", () => {
  it("are short, so that a block's key fits 32 bytes of Redis with its header and terminator", () => {
    expect(scopeTag(scope)).toMatch(/^[0-9A-Za-z]{3}$/);
    expect(scopeTag("other" as ScopeId)).not.toBe(scopeTag(scope));
    expect(space.block(15, key)).toHaveLength(30);
  });
});

describe("shards", () => {
  it("are chosen by the leading bits, all of them equally wide", () => {
    expect(shardOf("ffffffffffffffff" as BlockKey, 1)).toBe(0);
    expect(["0000", "0fff", "1000", "7fff", "8000", "ffff"].map((digits) => shardOf(`${digits}000000000000` as BlockKey, 16))).toEqual([
      0, 0, 1, 7, 8, 15,
    ]);
  });
});

describe("entries", () => {
  it("name the best medium first and count copies above one", () => {
    expect(formatEntry({ incarnation: 7, copies: { gpu: 1 } })).toBe("7:gpu");
    expect(formatEntry({ incarnation: 7, copies: { other: 3, cpu: 1, gpu: 2 } })).toBe("7:gpu*2,cpu,other*3");
  });

  it("come back as they were written", () => {
    const copies = fc.integer({ min: 1, max: 1_000_000 });
    const entry = fc.record({
      incarnation: fc.nat(),
      copies: fc
        .record({ gpu: copies, cpu: copies, storage: copies, other: copies }, { requiredKeys: [] })
        .filter((media) => Object.keys(media).length > 0),
    });
    fc.assert(
      fc.property(entry, (value) => {
        expect(parseEntry(formatEntry(value))).toEqual(value);
      }),
    );
  });

  it("are null when they are something else", () => {
    for (const value of ["", "gpu", ":gpu", "7:", "7:tape", "7:gpu*0", "7:gpu*x", "x:gpu"]) expect(parseEntry(value)).toBeNull();
  });
});

describe("positions", () => {
  it("tell a finished batch from one that is applied in part", () => {
    expect(formatPosition({ incarnation: 7, fence: 12, mark: { seq: 4711, part: null } })).toBe("7:12:4711");
    expect(parsePosition("7:12:4711.500")).toEqual({ incarnation: 7, fence: 12, mark: { seq: 4711, part: 500 } });
    expect(parsePosition("7:12:-1")).toEqual({ incarnation: 7, fence: 12, mark: { seq: -1, part: null } });
    for (const value of ["", "7", "7:12", "7:12:x", "7:12:1.", "a:1:1"]) expect(parsePosition(value)).toBeNull();
  });

  it("are ordered by batch, then by part", () => {
    const order = [
      { seq: -1, part: null },
      { seq: 4, part: 500 },
      { seq: 4, part: 1000 },
      { seq: 4, part: null },
      { seq: 5, part: 500 },
    ];
    for (const [i, a] of order.entries())
      for (const [j, b] of order.entries()) expect(Math.sign(compareWatermarks(a, b))).toBe(Math.sign(i - j));
  });
});
