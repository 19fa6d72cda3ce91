import { describe, expect, it } from "vitest";
import type { EndpointId, ScopeId } from "../types.ts";
import type { WriterTarget } from "./block-index.ts";
import { explainMismatch } from "./script-reply.ts";

const target: WriterTarget = { scope: "s" as ScopeId, endpoint: "e:1" as EndpointId, incarnation: 7, from: 0, fence: 12 };
const expected = { seq: 100, part: null };

describe("explainMismatch", () => {
  it.each([
    ["a later fence", "7:13:100", { kind: "fenced" }],
    ["a later fence, whatever the incarnation", "8:13:5", { kind: "fenced" }],
    ["a later incarnation of the same owner", "8:12:5", { kind: "stale" }],
    ["nothing", null, { kind: "lost", isMissing: true }],
    ["something unreadable", "what", { kind: "lost", isMissing: true }],
    ["an earlier fence: the taking-over was lost", "7:11:100", { kind: "lost", isMissing: false }],
    ["an earlier incarnation: its opening was lost", "6:12:100", { kind: "lost", isMissing: false }],
    ["a call that has broken off", "7:12:100!", { kind: "lost", isMissing: false }],
    ["a call that has broken off under a later owner", "7:13:100!", { kind: "fenced" }],
    ["a lower watermark", "7:12:99", { kind: "behind", mark: { seq: 99, part: null } }],
    ["a lower watermark within the batch", "7:12:100.500", { kind: "behind", mark: { seq: 100, part: 500 } }],
    ["a higher watermark", "7:12:101.500", { kind: "ahead", mark: { seq: 101, part: 500 } }],
    ["the watermark expected", "7:12:100", { kind: "ahead", mark: { seq: 100, part: null } }],
  ])("reads %s", (_, reply, meaning) => {
    expect(explainMismatch(reply, target, expected)).toMatchObject(meaning);
  });
});
