import { describe, expect, it } from "vitest";
import { redirectionIn, slotOf, unitsOf } from "./redis-slots.ts";

describe("slotOf", () => {
  it("is what CLUSTER KEYSLOT says", () => {
    // The vector of the cluster specification, then answers of Redis 7.0.15.
    expect(slotOf("123456789")).toBe(0x31c3);
    expect(slotOf("somekey")).toBe(11058);
    expect(slotOf("foo{hash_tag}")).toBe(2515);
  });

  it("counts the first tag that is not empty", () => {
    expect(slotOf("a{x}b{y}")).toBe(slotOf("x"));
    expect(slotOf("a{}b")).not.toBe(slotOf(""));
    expect(slotOf("kva:{OZW.f}:b:95e0ed6700010000")).toBe(slotOf("kva:{OZW.f}:seq"));
  });
});

describe("unitsOf", () => {
  it("finds the key of a command, and keeps a transaction together", () => {
    expect(
      unitsOf([
        ["get", "a"],
        ["evalsha", "sha", 1, "a", "x"],
        ["multi"],
        ["del", "b"],
        ["hset", "b", "f", 1],
        ["exec"],
        ["ping"],
        ["memory", "USAGE", "a"],
      ]),
    ).toEqual([
      { from: 0, to: 1, slot: slotOf("a") },
      { from: 1, to: 2, slot: slotOf("a") },
      { from: 2, to: 6, slot: slotOf("b") },
      { from: 6, to: 7, slot: null },
      { from: 7, to: 8, slot: slotOf("a") },
    ]);
  });
});

describe("redirectionIn", () => {
  it("reads MOVED and ASK, and nothing else", () => {
    expect(redirectionIn(new Error("MOVED 3999 127.0.0.1:6381"))).toEqual({ node: "127.0.0.1:6381", isAsk: false });
    expect(redirectionIn(new Error("ASK 3999 127.0.0.1:6381"))).toEqual({ node: "127.0.0.1:6381", isAsk: true });
    expect(redirectionIn(new Error("ERR no"))).toBeNull();
    expect(redirectionIn("MOVED 1 a:1")).toBeNull();
  });
});
