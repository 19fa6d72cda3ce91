import { describe, expect, it } from "vitest";
import type { ScopeId } from "../types.ts";
import { scopeTag } from "./redis-keys.ts";
import { isSuitable, layoutsOf, newLayout, parseScopeField, scopeField, tagsIn, withFormer } from "./scope-layout.ts";

const scope = "m.b16" as ScopeId;

describe("a scope's JSON", () => {
  const text = JSON.stringify({ tag: "OZW", model: "m", shards: 16, createdAt: "2026-11-21T12:00:00.000Z" });

  it("says where its keys are, and where they were", () => {
    const layouts = layoutsOf(withFormer(text, [{ tag: "abc", shards: 1 }]));
    expect(layouts).toEqual({
      current: { tag: "OZW", shards: 16 },
      former: [{ tag: "abc", shards: 1 }],
      createdAt: Date.parse("2026-11-21T12:00:00.000Z"),
    });
    expect(withFormer(withFormer(text, [{ tag: "abc", shards: 1 }]), [])).toBe(text);
    expect(tagsIn([text, withFormer(text, [{ tag: "abc", shards: 1 }]), "x"])).toEqual(new Set(["OZW", "abc"]));
  });

  it("is nothing when tag or shards cannot be", () => {
    const wrong = [{ tag: "a}b", shards: 1 }, { tag: "abc", shards: 0 }, { tag: "abc", shards: 1e9 }, { shards: 1 }, [], null, 7];
    for (const value of wrong) expect(layoutsOf(JSON.stringify(value))).toBeNull();
    for (const value of ["", "{", null, undefined]) expect(layoutsOf(value)).toBeNull();
    expect(layoutsOf('{"tag":"abc","shards":1,"former":[{"tag":""},{"tag":"xyz","shards":2},3]}')?.former).toEqual([
      { tag: "xyz", shards: 2 },
    ]);
  });
});

it("gives every schema version a field of its own", () => {
  expect(scopeField(scope)).toBe("m.b16");
  expect(parseScopeField("m.b16")).toEqual({ scope, version: 1 });
  expect(parseScopeField("m.b16@2")).toEqual({ scope, version: 2 });
});

it("takes a tag that is nobody's", () => {
  expect(newLayout(scope, 4, new Set())).toEqual({ tag: scopeTag(scope), shards: 4 });
  const taken = new Set([scopeTag(scope), scopeTag(scope, 1)]);
  expect(newLayout(scope, 4, taken)).toEqual({ tag: scopeTag(scope, 2), shards: 4 });
  expect(scopeTag(scope, 2)).toMatch(/^[0-9A-Za-z]{3}$/);
});

it("keeps a number of shards until one becomes several, several one, or the cluster has outgrown it", () => {
  const pairs = [
    [1, 1, true],
    [1, 16, false],
    [16, 1, false],
    [16, 20, true],
    [16, 32, true],
    [16, 36, false],
    [36, 16, true],
  ] as const;
  for (const [shards, wanted, is] of pairs) expect(isSuitable(shards, wanted)).toBe(is);
});
