import type { BlockKey } from "@kvatlas/shared/types";
import { describe, expect, it } from "vitest";
import type { EngineRun, Exchange } from "./engine-run.ts";
import { GapBounds, mustHaveStored, type Traffic } from "./gap-bounds.ts";

const engine = (hasStart: boolean): EngineRun => ({
  engine: "e0",
  meta: null,
  streams: new Map(),
  exchanges: [],
  hasStart,
  http: [],
  subscription: [],
  replays: [],
});

function traffic(sentMs: number, promptIds: Traffic["promptIds"], cachedTokens: number | null = 0, status = 200): Traffic {
  const request = {
    kind: "request",
    line: 1,
    id: "r",
    engine: "e0",
    path: "/v1/completions",
    body: {},
    bodyText: "{}",
    headers: {},
  } as const;
  const response = { kind: "response", line: 2, id: "r", body: null, sse: null } as const;
  const exchange: Exchange = {
    request: { ...request, atMs: sentMs, concurrent: null },
    response: { ...response, atMs: sentMs + 500, status },
  };
  return { exchange, promptIds, cachedTokens };
}

const tokens = (length: number, from = 0): number[] => Array.from({ length }, (_, i) => from + i);
const keys = tokens(6).map((i) => `key${i}` as BlockKey);

/** Upper bound for a prompt of 100 tokens in blocks of 16 at 20 s, behind a gap from 5 s to 10 s; the first two blocks are known. */
async function upper(others: readonly Traffic[], hasStart = true): Promise<number | null> {
  const bounds = new GapBounds(engine(hasStart), others);
  bounds.add(5_000, 10_000);
  const holds = async (key: BlockKey): Promise<boolean> => key === "key0" || key === "key1";
  return bounds.upperBlocks({ tokenIds: tokens(100), keys, limit: 6, blockSizeTokens: 16, holds }, null, 20_000);
}

describe("GapBounds", () => {
  it.each<[string, readonly Traffic[], number | null]>([
    ["without requests in the gap, what is known", [traffic(1_000, [tokens(100)]), traffic(12_000, [tokens(100)])], 2],
    ["with a prompt that parts after 70 tokens, four blocks", [traffic(6_000, [[...tokens(70), ...tokens(9, 900)]])], 4],
    ["with a prompt that parts at once, what is known", [traffic(6_000, [tokens(100, 7)])], 2],
    ["with a prompt that this one continues, everything: its answer is part of it", [traffic(6_000, [tokens(40)])], 6],
    ["with a refused request, what is known", [traffic(6_000, [])], 2],
    ["with a request of unknown prompt, nothing", [traffic(6_000, null)], null],
  ])("%s", async (_, others, expected) => {
    expect(await upper(others)).toBe(expected);
  });

  it("knows nothing of an engine that others may have used before", async () => {
    expect(await upper([], false)).toBeNull();
  });
});

describe("mustHaveStored", () => {
  it.each<[Traffic, boolean]>([
    [traffic(0, [tokens(40)]), true],
    [traffic(0, [tokens(40)], 32), false],
    [traffic(0, [tokens(32)], 16), true],
    [traffic(0, [tokens(15)]), false],
    [traffic(0, [tokens(40)], null), false],
    [traffic(0, null), false],
    [traffic(0, [tokens(40)], 0, 503), false],
  ])("%#", (one, expected) => {
    expect(mustHaveStored(one, 16)).toBe(expected);
  });
});
