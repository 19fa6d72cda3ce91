import { describe, expect, it } from "vitest";
import { answersRequests, engineRoleOf, prefillsForOthers, takesHandovers } from "./engine-role.ts";

describe("the role of a replica", () => {
  it.each([
    ["prefill", "prefill"],
    ["decode", "decode"],
    ["both", "both"],
    ["prefill-decode", "both"],
    ["encode-prefill-decode", "both"],
    ["encode-prefill", "prefill"],
    ["encode", "encode"],
    ["Decode", "decode"],
    ["", null],
    ["router", null],
    [null, null],
    [undefined, null],
  ])("of the label %s is %s", (label, role) => {
    expect(engineRoleOf(label)).toBe(role);
  });

  it.each([
    [null, true, false, false],
    ["prefill", false, true, false],
    ["decode", true, false, true],
    ["both", true, true, true],
    ["encode", false, false, false],
  ] as const)("%s: answers requests %s, prefills for others %s, takes handovers %s", (role, answers, prefills, takes) => {
    expect([answersRequests(role), prefillsForOthers(role), takesHandovers(role)]).toEqual([answers, prefills, takes]);
  });
});
