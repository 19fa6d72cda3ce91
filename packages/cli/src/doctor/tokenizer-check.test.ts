import { configSchema, type PoolConfig } from "@kvatlas/shared/config/schema";
import type { PromptEncoder } from "@kvatlas/shared/tokenization/prompt-encoder";
import { describe, expect, it } from "vitest";
import { checkTokenizer } from "./tokenizer-check.ts";

const pool = configSchema.parse({ pools: [{ name: "p", model: "m", tokenizer: { path: "/models/m" } }] }).pools[0] as PoolConfig;

/** One token per UTF-16 unit of the body. */
const encoder: PromptEncoder = {
  encode: async ({ bodyText }) => [{ rendered: bodyText, tokenIds: Uint32Array.from([...bodyText].map((char) => char.charCodeAt(0))) }],
  close: async () => {},
};

function engine(change: (tokens: number[]) => number[], status = 200): typeof fetch {
  return async (_, init) => {
    const { model, messages } = JSON.parse(String(init?.body)) as { model: string; messages: unknown };
    const tokens = change([...JSON.stringify({ model, messages })].map((char) => char.charCodeAt(0)));
    return new Response(JSON.stringify({ tokens }), { status });
  };
}

async function parity(fetchTokens: typeof fetch, addresses = ["h:1"]) {
  const verdicts = await checkTokenizer(pool, { openEncoder: async () => encoder, addresses, fetch: fetchTokens, timeoutMs: 1_000 });
  return verdicts.find(({ check }) => check === "parity");
}

describe("checkTokenizer", () => {
  it("is content when the engine has the same token ids", async () => {
    expect(await parity(engine((tokens) => tokens))).toMatchObject({ status: "ok" });
  });

  it("says where the token ids part", async () => {
    const verdict = await parity(engine((tokens) => tokens.with(3, 0)));
    expect(verdict).toMatchObject({ status: "problem" });
    expect(verdict?.message).toContain("disagree from token 3 on");
    expect((await parity(engine((tokens) => tokens.slice(0, -1))))?.status).toBe("problem");
    expect((await parity(engine((tokens) => [...tokens, 1])))?.status).toBe("problem");
  });

  it("skips what it cannot ask, with the reason", async () => {
    expect(await parity(engine((tokens) => tokens, 404))).toMatchObject({
      status: "skipped",
      message: expect.stringContaining("answers 404"),
    });
    expect(
      await parity(
        engine((tokens) => tokens),
        [],
      ),
    ).toMatchObject({ status: "skipped", message: expect.stringContaining("no replica") });
  });

  it("names the directory that does not load", async () => {
    const broken: PromptEncoder = { ...encoder, encode: () => Promise.reject(new Error("tokenizer.json is missing")) };
    const verdicts = await checkTokenizer(pool, { openEncoder: async () => broken, addresses: [], fetch, timeoutMs: 1 });
    expect(verdicts).toEqual([
      expect.objectContaining({ status: "problem", message: "/models/m cannot encode a chat: tokenizer.json is missing" }),
    ]);
  });
});
