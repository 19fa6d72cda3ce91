import { describe, expect, it } from "vitest";
import { endpointOf } from "../routing/candidate.fixture.ts";
import { whyWhole } from "./division.ts";

const config = { minUncachedTokens: 512, maxRecomputeRatio: 4 };
const holding = (id: string, matchedTokens: number) => ({ endpoint: endpointOf(id), matchedTokens });

describe("whyWhole", () => {
  it.each([
    ["a long prompt that nobody holds is divided", 6_000, 0, 0, null],
    ["a short one is not", 512, 0, 0, "short"],
    ["nor one that the decoding replica holds nearly all of", 6_000, 5_488, 5_488, "short"],
    ["but one that it lacks a token more of", 6_000, 5_487, 5_488, null],
    ["unless prefill would compute far more than that again", 6_000, 5_000, 0, "held"],
    ["prefill may compute a few times as much", 6_000, 5_000, 2_000, null],
  ])("%s", (_name, promptTokens, decoding, prefilling, why) => {
    expect(whyWhole(config, promptTokens, holding("d", decoding), holding("p", prefilling))).toBe(why);
  });

  it("is that a replica for one of the steps is missing, or that one is best for both", () => {
    expect(whyWhole(config, 6_000, undefined, holding("p", 0))).toBe("no-decode");
    expect(whyWhole(config, 6_000, holding("d", 0), undefined)).toBe("no-prefill");
    expect(whyWhole(config, 6_000, holding("b", 0), holding("b", 0))).toBe("same-replica");
  });
});
