import { describe, expect, it } from "vitest";
import { endpointOf } from "../routing/candidate.fixture.ts";
import type { Decision } from "../routing/decision.ts";
import { handledLine } from "./handled-line.ts";

const picked = endpointOf("10.0.0.1:8000", { pod: { name: "default/qwen-0", labels: { app: "qwen" } } });
const decision: Decision = {
  endpoint: picked,
  mode: "precise",
  reason: "prefix",
  promptTokens: 400,
  matchedTokens: 384,
  blocks: 24,
  matchedBlocks: 24,
  ranking: [],
  timings: { tokenizeMs: null, keysMs: 0.1, lookupMs: 0.2, totalMs: 0.4 },
};
const resolved = { target: "qwen", criticality: "critical", alias: "chat", restoreInAnswers: true } as const;
const answer = { status: 200, outcome: "completed", firstByteMs: 12, totalMs: 34 };
/** As it is written. */
const lineOf = (...about: Parameters<typeof handledLine>) => JSON.parse(JSON.stringify(handledLine(...about))) as object;
const asked = { requestId: "r1", tenant: null, path: "/v1/chat/completions" };

describe("the line of a request that was handled", () => {
  it("has the request's id, both names of the model, and the replica with its pod and labels", () => {
    expect(lineOf({ asked, model: "chat", resolved, decision, endpoint: picked }, answer)).toMatchObject({
      "x-request-id": "r1",
      model: "chat",
      resolvedTargetModel: "qwen",
      criticality: "critical",
      endpoint: "10.0.0.1:8000",
      pod: "default/qwen-0",
      labels: { app: "qwen" },
      mode: "precise",
      status: 200,
      outcome: "completed",
      firstByteMs: 12,
      totalMs: 34,
    });
  });

  it("names the replica that it was sent to last, and leaves out what there is not", () => {
    const other = endpointOf("10.0.0.2:8000");
    const fields = lineOf({ asked, model: "m", resolved: { ...resolved, target: null, alias: null }, decision, endpoint: other }, answer);
    expect(fields).toMatchObject({ endpoint: "10.0.0.2:8000", resolvedTargetModel: "m" });
    for (const name of ["pod", "labels", "tenant", "division", "gateway", "attempts", "prefill", "why", "err"])
      expect(fields).not.toHaveProperty(name);
  });

  it("says why a request was refused that came to no decision", () => {
    const refused = { status: 404, outcome: "refused", totalMs: 1, why: "no such model" };
    expect(lineOf({ asked, model: "m", resolved: null, decision: null, endpoint: null }, refused)).toEqual({
      "x-request-id": "r1",
      model: "m",
      path: "/v1/chat/completions",
      ...refused,
    });
  });
});
