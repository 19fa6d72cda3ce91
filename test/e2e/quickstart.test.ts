import { Redis } from "ioredis";
import { describe, expect, it } from "vitest";
import { testRedisUrl, uniqueKeyPrefix } from "../support/redis.ts";
import { startKvatlas } from "../support/services.ts";

interface QuickstartResult {
  readonly ok: boolean;
  readonly index: string;
  readonly expectedTokens: number;
  readonly rounds: readonly {
    readonly endpoint: string;
    readonly mode: string;
    readonly matchedTokens: number;
    readonly cachedTokens: number;
  }[];
  readonly comparisons: readonly {
    readonly mode: string;
    readonly ok: boolean;
    readonly rounds: readonly { readonly endpoint: string; readonly matchedTokens: number; readonly cachedTokens: number }[];
  }[];
  readonly replicas: readonly string[];
  readonly redisCli: string | null;
}

async function quickstart(args: readonly string[], env: Readonly<Record<string, string>> = {}): Promise<QuickstartResult> {
  const run = startKvatlas(["quickstart", "--once", "--json", ...args], env);
  const end = await run.ended;
  expect(end, `${run.stdout}\n${run.stderr}`).toEqual({ code: 0, signal: null });
  expect(run.stdout.trimEnd().split("\n")).toHaveLength(1);
  return JSON.parse(run.stdout) as QuickstartResult;
}

function expectReuse({ ok, rounds, expectedTokens }: QuickstartResult): void {
  expect(ok).toBe(true);
  expect(expectedTokens).toBeGreaterThan(0);
  expect(rounds[0]).toMatchObject({ mode: "precise", matchedTokens: 0 });
  expect(rounds[1]).toMatchObject({
    endpoint: rounds[0]?.endpoint,
    mode: "precise",
    matchedTokens: expectedTokens,
    cachedTokens: expectedTokens,
  });
}

describe("kvatlas quickstart --once --json", { timeout: 180_000 }, () => {
  it("lands the second round on the holder of the first, without Redis", async () => {
    const result = await quickstart([]);
    expectReuse(result);
    expect(result).toMatchObject({ index: "memory", redisCli: null });
    expect(result.replicas).toHaveLength(3);
    expect(result.comparisons.map(({ mode }) => mode)).toEqual(["off"]);
    const [one, two] = result.comparisons[0]?.rounds ?? [];
    expect(two?.endpoint).not.toBe(one?.endpoint);
    expect(two?.cachedTokens).toBe(0);
  });

  it("shows modes side by side, estimates first", async () => {
    const { ok, rounds, comparisons, expectedTokens } = await quickstart(["--mode", "estimated,precise,off"]);
    expect(ok).toBe(true);
    expect(rounds).toMatchObject([
      { mode: "estimated" },
      { mode: "estimated", endpoint: rounds[0]?.endpoint, cachedTokens: expectedTokens },
    ]);
    expect(rounds[1]?.matchedTokens).toBeGreaterThan(0);
    expect(rounds[1]?.matchedTokens).toBeLessThanOrEqual(expectedTokens);
    expect(comparisons.map(({ mode, ok: isOk }) => ({ mode, isOk }))).toEqual([
      { mode: "precise", isOk: true },
      { mode: "off", isOk: true },
    ]);
  });

  it("promises nothing and routes in turn with --mode off", async () => {
    const { ok, rounds, comparisons } = await quickstart(["--mode", "off", "--replicas", "2"]);
    expect({ ok, comparisons }).toEqual({ ok: true, comparisons: [] });
    expect(rounds.map(({ mode, matchedTokens }) => ({ mode, matchedTokens }))).toEqual([
      { mode: "off", matchedTokens: 0 },
      { mode: "off", matchedTokens: 0 },
    ]);
    expect(rounds[1]?.endpoint).not.toBe(rounds[0]?.endpoint);
  });

  it("works again and again on one Redis and leaves its last run readable there", async () => {
    const prefix = uniqueKeyPrefix();
    const env = { KVATLAS_REDIS_URL: testRedisUrl(), KVATLAS_REDIS_KEY_PREFIX: prefix };
    expectReuse(await quickstart([], env));
    const second = await quickstart([], env);
    expectReuse(second);
    expect(second.index).toBe("redis");
    const redis = new Redis(testRedisUrl());
    try {
      const addresses = second.replicas.map((url) => url.replace("http://", "")).sort();
      expect((await redis.zrange(`${prefix}:endpoints`, "0", "-1")).sort()).toEqual(addresses);
      const key = second.redisCli?.match(/HGETALL '(.+)'$/)?.[1] ?? "";
      expect(await redis.hgetall(key)).toEqual({ [second.rounds[0]?.endpoint ?? ""]: expect.stringMatching(/^\d+:gpu$/) });
    } finally {
      redis.disconnect();
    }
  });
});
