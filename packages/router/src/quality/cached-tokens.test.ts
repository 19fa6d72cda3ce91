import { describe, expect, it } from "vitest";
import { cachedTokensIn } from "./cached-tokens.ts";

const pieces = (...texts: string[]) => texts.map((text) => Buffer.from(text));

describe("cachedTokensIn", () => {
  it.each<[string, readonly Buffer[], number | null]>([
    ["a whole answer", pieces('{"usage":{"prompt_tokens":9,"prompt_tokens_details":{"cached_tokens":32}},"kv_transfer_params":null}'), 32],
    ["the last event but one", pieces('data: {"usage":{"prompt_tokens_details":{"cached_tokens": 16}}}\n\n', "data: [DONE]\n\n"), 16],
    ["cut between two pieces", pieces('..."cached_tok', 'ens":48}}}'), 48],
    ["nothing cached", pieces('"prompt_tokens_details":{"cached_tokens":0}'), 0],
    ["an engine that does not tell", pieces('"prompt_tokens_details":null'), null],
    ["no number", pieces('"cached_tokens":null'), null],
    ["a number without end", pieces(`"cached_tokens":${"9".repeat(40)}`), null],
    ["nothing", [], null],
    ["far from the end", pieces(`"cached_tokens":5${" ".repeat(5_000)}`), null],
  ])("%s", (_name, tail, tokens) => {
    expect(cachedTokensIn(tail)).toBe(tokens);
  });
});
