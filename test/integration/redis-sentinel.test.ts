import { createRedisBackend } from "@kvatlas/shared/backend";
import { configSchema } from "@kvatlas/shared/config/schema";
import type { SequencedOps } from "@kvatlas/shared/index/block-index";
import { chainOf } from "@kvatlas/shared/index/block-index.contract";
import { silentLogger } from "@kvatlas/shared/logger";
import type { EndpointId, ScopeId } from "@kvatlas/shared/types";
import { describe, expect, it } from "vitest";
import { applyThroughLosses } from "../support/apply-through-losses.ts";
import { eventuallyTrue } from "../support/eventually.ts";
import { startRedisSentinels } from "../support/redis-sentinel.ts";
import { serverPrograms } from "../support/redis-server.ts";

const scope = "sentinel.b16" as ScopeId;
const endpoint = "10.0.0.1:8000" as EndpointId;
const chain = chainOf(1, 200);
const log = chain.map((key, seq): SequencedOps => ({ seq, ops: [{ op: "store", medium: "gpu", group: 0, keys: [key] }] }));

describe.each(await serverPrograms())("$name behind Sentinel", ({ program }) => {
  it("is followed to the new primary, and what it had lost is noticed and restored by the replay", async () => {
    const sentinels = await startRedisSentinels({ program });
    const { redis } = configSchema.parse({
      redis: { sentinel: { name: sentinels.name, nodes: sentinels.nodes }, commandTimeoutMs: 1_000 },
    });
    const ingester = createRedisBackend(redis, "background", silentLogger);
    const router = createRedisBackend(redis, "request", silentLogger);
    try {
      let heard = 0;
      router.registry.onChange(() => {
        heard += 1;
      });
      expect(await router.connected(20_000)).toBe(true);
      const lease = await ingester.registry.acquire(endpoint, "me", 60_000);
      if (lease === null) throw new Error("no lease");
      const incarnation = (await ingester.registry.startIncarnation(lease, 0)) ?? 0;
      const writer = await ingester.index.openWriter({ scope, endpoint, incarnation, from: 0, fence: lease.fence });
      await writer.apply(log.slice(0, 100));
      await sentinels.caughtUp();
      // What follows reaches the primary alone, and is acknowledged by it.
      await sentinels.cutOff();
      await writer.apply(log.slice(100, 150));
      await sentinels.primary.stop();
      sentinels.replica.resume();
      await sentinels.named(sentinels.replica.port);

      const losses = await applyThroughLosses(writer, log, 150);
      expect(losses.length).toBeGreaterThan(0);
      expect(losses[0]).toBe(99);
      await eventuallyTrue(() => router.connected(1));
      const [matches] = await router.index.lookup([{ scope, keys: chain }], { method: "exact" });
      expect(matches?.get(endpoint)?.blocks).toBe(200);
      const holders = await Promise.all(chain.map((key) => router.index.holders(scope, key)));
      expect(holders.every(([holder]) => holder?.copies.gpu === 1)).toBe(true);

      const before = heard;
      await eventuallyTrue(async () => {
        await ingester.registry.acquire(endpoint, "me", 60_000);
        return heard > before;
      });
    } finally {
      await ingester.close();
      await router.close();
      await sentinels.stop();
    }
  });
});
