import { describe, expect, it } from "vitest";
import type { Played, Round } from "./play.ts";
import { judge } from "./report.ts";

const round: Round = { endpoint: "a:1", mode: "precise", promptTokens: 200, matchedTokens: 0, cachedTokens: 0, ttftMs: 1 };

function played(two: Partial<Round>, expectedTokens = 128): Played {
  const rounds = [round, { ...round, matchedTokens: 128, cachedTokens: 128, ...two }] as const;
  return { rounds, promptIds: new Uint32Array(), expectedTokens, sentTokens: Math.min(64, expectedTokens) };
}

describe("judge", () => {
  it("is content when round 2 reused, on the same replica, all that it could", () => {
    expect(judge("precise", played({}))).toMatchObject({ ok: true });
  });

  it.each([
    ["another replica", played({ endpoint: "b:1" }), "went to b:1"],
    ["a shorter match", played({ matchedTokens: 64 }), "The router found 64 tokens; the replica holds 128."],
    ["a longer match", played({ matchedTokens: 192 }), "The router found 192 tokens; the replica holds 128."],
    ["a prediction that the replica does not confirm", played({ cachedTokens: 0 }), "the replica reused 0"],
    ["a conversation without a full block", played({ matchedTokens: 0, cachedTokens: 0 }, 0), "shows nothing"],
  ])("is not with %s", (_, of, sentence) => {
    const { ok, verdict } = judge("precise", of);
    expect(ok).toBe(false);
    expect(verdict).toContain(sentence);
  });

  it("expects of an estimate what was sent, and of the replica what it holds", () => {
    const { ok, verdict } = judge("estimated", played({ matchedTokens: 64 }));
    expect(ok).toBe(true);
    expect(verdict).toContain("knew of 64 tokens, and the replica reused 128, its own answer among them");
    expect(judge("estimated", played({ matchedTokens: 128 })).verdict).toBe("The router found 128 tokens; 64 were sent to the replica.");
    expect(judge("estimated", played({ matchedTokens: 64, endpoint: "b:1" })).ok).toBe(false);
  });

  it("expects nothing of round robin", () => {
    expect(judge("off", played({ endpoint: "b:1", matchedTokens: 0, cachedTokens: 0 }))).toMatchObject({ ok: true });
  });
});
