import type { ScopeSpec } from "@kvatlas/shared/hashing/key-scheme";
import { parseRedisInfo } from "@kvatlas/shared/redis-info";
import type { EndpointId, ScopeId } from "@kvatlas/shared/types";
import { expect, it } from "vitest";
import { checkIndexMemory, type IndexMemory } from "./index-memory-check.ts";

const [scope, id] = ["s" as ScopeId, "a:1" as EndpointId];
const native: ScopeSpec = { model: "m", blockSizeTokens: 16, scheme: { kind: "native", algorithm: "sha256_cbor", seed: "0" } };
const load = { waiting: 0, running: 0, kvUsage: 0, runningLoras: [], waitingLoras: [], sleeping: false, at: 0 };

/** An index of `blocks` blocks, replicas that together have room for 1,000,000 of 16 tokens, primaries with this much of `maxmemory` each. */
function fleet(blocks: number, limitsMiB: readonly number[], more: Partial<IndexMemory> = {}): IndexMemory {
  return {
    servers: limitsMiB.map((limit, i) => ({
      server: `r${i}:6379`,
      isPrimary: true,
      info: parseRedisInfo(`used_memory:${20 * 1_048_576}\r\nmaxmemory:${limit * 1_048_576}\r\n`),
      silence: null,
    })),
    census: { scopes: new Map([[scope, { blocks, holders: new Map(), bytes: blocks * 130 }]]), isExact: true, examined: 1, total: 1 },
    endpoints: [{ id, meta: { scope } }],
    loads: new Map([[id, { ...load, maxTokens: 16_000_000 }]]),
    scopes: new Map([[scope, native]]),
    ...more,
  };
}

it("says what the index takes, and what it takes with every cache full", () => {
  expect(checkIndexMemory(fleet(100_000, [0]))).toEqual({
    check: "redis",
    subject: "index",
    status: "ok",
    message:
      "100000 blocks take 12.4 MiB, 130 bytes each; with every cache full of blocks of its own it takes 117.3 MiB for 1000000 blocks",
  });
  expect(checkIndexMemory(fleet(0, [0], { loads: new Map() })).message).toBe("0 blocks take 0.0 MiB");
});

it("warns of a limit that full caches exceed, over all primaries", () => {
  expect(checkIndexMemory(fleet(100_000, [100]))).toMatchObject({
    status: "problem",
    message: expect.stringContaining("beside 7.6 MiB of other things: more than maxmemory, 100.0 MiB"),
  });
  expect(checkIndexMemory(fleet(100_000, [100, 100])).status).toBe("ok");
  expect(checkIndexMemory(fleet(100_000, [100, 0])).status).toBe("ok");
  const content: ScopeSpec = { ...native, scheme: { kind: "content", seed: "" } };
  expect(checkIndexMemory(fleet(100_000, [100, 100], { scopes: new Map([[scope, content]]) })).status).toBe("problem");
});
