import { createMemoryBackend } from "@kvatlas/shared/backend";
import { configSchema } from "@kvatlas/shared/config/schema";
import { createRedisKeys } from "@kvatlas/shared/index/redis-keys";
import { noQuality } from "@kvatlas/shared/registry/quality-records";
import { expect, it } from "vitest";
import { inspectQuality } from "./quality.ts";

it("inspect quality shows what live routers say, and what to ask Redis for", async () => {
  const backend = createMemoryBackend();
  const source = {
    ...backend,
    config: configSchema.parse({}),
    keys: createRedisKeys("kva"),
    redisCli: (...args: readonly string[]) => args.join(" "),
    nowMs: 100_000,
  };
  expect((await inspectQuality(source)).text).toContain("live routers: 0");
  await backend.registry.beat("router", "one", 99_000);
  const sums = { precise: 9, load: 1, promptTokens: 1_000, matchedTokens: 800, regretTokens: 50 };
  const compared = { compared: 4, exact: 3, over: 1, predictedTokens: 400, reportedTokens: 300 };
  await backend.quality.save("one", { ...noQuality, ...sums, ...compared, since: 40_000, at: 100_000 }, 60_000);
  const { json, text, redisCli } = await inspectQuality(source);
  expect(json.routers).toMatchObject([{ router: "one", hitRate: 0.8, regretRate: 0.05, exactRate: 0.75, foundRate: 0.75 }]);
  expect(text).toContain("80.0 %");
  expect(redisCli).toContain("HGETALL kva:quality:one");
});
