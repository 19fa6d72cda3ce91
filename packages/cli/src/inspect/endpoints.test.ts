import { createMemoryBackend } from "@kvatlas/shared/backend";
import { configSchema } from "@kvatlas/shared/config/schema";
import { createRedisKeys } from "@kvatlas/shared/index/redis-keys";
import { noQuality } from "@kvatlas/shared/registry/quality-records";
import { expect, it } from "vitest";
import { inspectEndpoints } from "./endpoints.ts";

it("inspect endpoints shows what live routers have found wrong with their pools", async () => {
  const backend = createMemoryBackend();
  const source = {
    ...backend,
    config: configSchema.parse({}),
    keys: createRedisKeys("kva"),
    redisCli: (...args: readonly string[]) => args.join(" "),
    nowMs: 100_000,
  };
  expect((await inspectEndpoints(source)).json).toEqual({ endpoints: [], routerFindings: [] });
  await backend.registry.beat("router", "one", 99_000);
  const finding = { pool: "chat", name: "tokenizer", text: "the local tokenizer and the engine disagree" };
  for (const router of ["one", "gone"]) await backend.quality.save(router, { ...noQuality, since: 1, at: 2, findings: [finding] }, 60_000);
  const { json, text } = await inspectEndpoints(source);
  expect(json.routerFindings).toEqual([{ router: "one", ...finding }]);
  expect(text).toContain("pool chat: tokenizer, says router one: the local tokenizer and the engine disagree");
});
