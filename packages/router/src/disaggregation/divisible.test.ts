import { describe, expect, it } from "vitest";
import { isDivisible } from "./divisible.ts";

describe("isDivisible", () => {
  it.each<["chat" | "completion", object, boolean]>([
    ["chat", {}, true],
    ["chat", { n: 1, kv_transfer_params: null, stream: true }, true],
    ["chat", { kv_transfer_params: { prompt_token_ids: [1] } }, true],
    ["completion", { prompt: "text" }, true],
    ["completion", { prompt: [1, 2, 3] }, true],
    ["completion", { prompt: [[1, 2, 3]] }, true],
    ["completion", { prompt: [[1], [2]] }, false],
    ["completion", { prompt: "text", best_of: 2 }, false],
    ["completion", { prompt: "text", echo: true }, false],
    ["chat", { n: 2 }, false],
    ["chat", { use_beam_search: true }, false],
    ["chat", { prompt_logprobs: 1 }, false],
    ["chat", { kv_transfer_params: { do_remote_prefill: true } }, false],
    ["chat", { kv_transfer_params: "?" }, false],
  ])("%s %j: %s", (kind, json, divisible) => {
    expect(isDivisible(kind, json as Record<string, unknown>)).toBe(divisible);
  });
});
