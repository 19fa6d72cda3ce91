import { createRedisBackend } from "@kvatlas/shared/backend";
import { configSchema } from "@kvatlas/shared/config/schema";
import { silentLogger } from "@kvatlas/shared/logger";
import { slotOf } from "@kvatlas/shared/redis-slots";
import type { Redis } from "ioredis";
import { describe, expect, it, onTestFinished } from "vitest";
import { eventually } from "../support/eventually.ts";
import { IngestBed, joined } from "../support/ingest-bed.ts";
import { poolOf, recordOf, TestPrompt, type TestStore } from "../support/ingest-rig.ts";
import { startRedisCluster } from "../support/redis-cluster.ts";

const address = "127.0.0.1:1";

/** Everything one node holds, to be put back later: what a failover to a replica that lags behind leaves. */
async function dumpOf(node: Redis): Promise<ReadonlyMap<string, Buffer>> {
  const dumps = new Map<string, Buffer>();
  for (const key of await node.keys("kva:{*")) {
    const value = await node.dumpBuffer(key);
    if (value !== null) dumps.set(key, value);
  }
  return dumps;
}

/** Each shard in one step, as a whole node goes back: nobody sees one that is on its way. */
async function putBack(node: Redis, dumps: ReadonlyMap<string, Buffer>): Promise<void> {
  const keys = [...new Set([...(await node.keys("kva:{*")), ...dumps.keys()])];
  for (const slot of new Set(keys.map(slotOf))) {
    const transaction = node.multi();
    for (const key of keys.filter((name) => slotOf(name) === slot)) {
      const value = dumps.get(key);
      if (value === undefined) transaction.del(key);
      else transaction.restore(key, 0, value, "REPLACE");
    }
    await transaction.exec();
  }
}

/** Live entries of all blocks there are, by block key. */
async function heldIn(store: TestStore): Promise<ReadonlyMap<string, number>> {
  const scope = (await recordOf(store, address))?.meta.scope ?? null;
  const held = new Map<string, number>();
  if (scope === null) return held;
  for (let cursor: string | null = "0"; cursor !== null; ) {
    const page: Awaited<ReturnType<typeof store.index.walk>> = await store.index.walk(scope, cursor, 1_000);
    for (const { key, holders } of page.blocks) {
      const copies = holders.filter(({ live }) => live).reduce((sum, holder) => sum + (holder.copies.gpu ?? 0), 0);
      if (copies > 0) held.set(key, copies);
    }
    cursor = page.next;
  }
  return held;
}

describe("a node of a cluster that goes back in time alone, keys made from contents", () => {
  it("has what was removed since removed again", async () => {
    const cluster = await startRedisCluster();
    onTestFinished(() => cluster.stop());
    const { redis } = configSchema.parse({ redis: { cluster: [...cluster.nodes] } });
    const backend = createRedisBackend(redis, "background", silentLogger);
    onTestFinished(() => backend.close());
    const bed = new IngestBed(backend);
    onTestFinished(() => bed.close());
    const publisher = await bed.publisher();
    const rig = await bed.ingester([poolOf([{ address, publisher }], { hashAlgo: "content" })]);
    await joined(publisher, rig);

    const prompt = new TestPrompt(1, 64);
    for (const node of cluster.nodes.keys()) {
      await publisher.publish([prompt.stored()]);
      const before = await eventually(async () => {
        const held = await heldIn(backend);
        expect([...held.values()]).toEqual(Array(64).fill(1));
        return held;
      });
      const earlier = await dumpOf(cluster.client(node));
      // One batch a block, as engines evict: the last blocks of a chain first.
      for (let block = 63; block >= 32; block--) await publisher.publish([prompt.removed(block)]);
      await eventually(async () => expect((await heldIn(backend)).size).toBe(32));
      const noticed = await rig.metric("kvatlas_ingester_gaps_total", { cause: "behind" });
      await putBack(cluster.client(node), earlier);
      await eventually(async () => expect(await rig.metric("kvatlas_ingester_gaps_total", { cause: "behind" })).toBeGreaterThan(noticed));
      await eventually(async () => expect((await heldIn(backend)).size).toBe(32));
      for (const key of (await heldIn(backend)).keys()) expect(before.has(key)).toBe(true);
      for (let block = 31; block >= 0; block--) await publisher.publish([prompt.removed(block)]);
      await eventually(async () => expect((await heldIn(backend)).size).toBe(0));
    }
    expect(await rig.metric("kvatlas_ingester_incarnations_total")).toBe(0);
  });
});
