import { isKvatlasError } from "@kvatlas/shared/errors";
import type { IndexWriter, SequencedOps } from "@kvatlas/shared/index/block-index";
import { chainOf } from "@kvatlas/shared/index/block-index.contract";
import { createRedisBlockIndex } from "@kvatlas/shared/index/redis-block-index";
import { createRedisKeys, scopeTag, shardOf } from "@kvatlas/shared/index/redis-keys";
import { silentLogger } from "@kvatlas/shared/logger";
import { createRedisConnection } from "@kvatlas/shared/redis";
import { slotOf } from "@kvatlas/shared/redis-slots";
import type { EndpointId, ScopeId } from "@kvatlas/shared/types";
import { Redis } from "ioredis";
import { afterEach, expect, it } from "vitest";
import { uniqueKeyPrefix } from "../support/redis.ts";
import { startRedisCluster } from "../support/redis-cluster.ts";

const scope = "moved.b16" as ScopeId;
const endpoint = "10.0.0.1:8000" as EndpointId;
const SHARDS = 4;
const chain = chainOf(1, 200);
const cleanups: (() => Promise<unknown>)[] = [];

afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

const stores = (seq: number): SequencedOps => ({ seq, ops: [{ op: "store", medium: "gpu", group: 0, keys: chain }] });

/** As an ingester does: repeats what the store does not answer, replays what it has lost. */
async function applyThrough(writer: IndexWriter, log: readonly SequencedOps[]): Promise<void> {
  for (;;) {
    try {
      await writer.apply(log.filter(({ seq }) => seq > writer.applied));
      return;
    } catch (error) {
      if (!isKvatlasError(error) || !error.retryable) throw error;
    }
  }
}

it("a slot that is half moved while blocks are written costs a replay, and no copy is counted twice", async () => {
  const cluster = await startRedisCluster();
  cleanups.push(() => cluster.stop());
  const nodes = cluster.nodes.map((node) => new Redis(`redis://${node.replace(/^.*@/, "")}`));
  cleanups.push(async () => nodes.map((node) => node.disconnect()));
  const connection = createRedisConnection({ url: null, cluster: [...cluster.nodes], commandTimeoutMs: 1_000 }, "background", silentLogger);
  cleanups.push(() => connection.close());
  const keys = createRedisKeys(uniqueKeyPrefix());
  const space = keys.space(scopeTag(scope));
  const index = createRedisBlockIndex({ connection, keys }, { defaultShards: SHARDS });
  const writer = await index.openWriter({ scope, endpoint, incarnation: 1, from: 0, fence: 1 });
  const log = [stores(0)];
  await applyThrough(writer, log);

  // The blocks of the shard's second half are on the way when a batch comes, its position is not.
  const shard = shardOf(chain[0] ?? ("" as never), SHARDS);
  const slot = slotOf(space.seq(shard));
  const ids = await Promise.all(nodes.map((node) => node.call("cluster", "MYID") as Promise<string>));
  const owners = await Promise.all(nodes.map((node) => node.call("cluster", "COUNTKEYSINSLOT", slot) as Promise<number>));
  const from = owners.findIndex((count) => count > 0);
  const to = (from + 1) % nodes.length;
  const port = Number(cluster.nodes[to]?.replace(/^.*:/, ""));
  await nodes[to]?.call("cluster", "SETSLOT", slot, "IMPORTING", ids[from] ?? "");
  await nodes[from]?.call("cluster", "SETSLOT", slot, "MIGRATING", ids[to] ?? "");
  const mine = chain.filter((key) => shardOf(key, SHARDS) === shard).map((key) => space.block(shard, key));
  const moved = mine.slice(mine.length / 2);
  await nodes[from]?.call("migrate", "127.0.0.1", port, "", 0, 5_000, "KEYS", ...moved);
  log.push(stores(1));
  await expect(writer.apply([stores(1)])).rejects.toMatchObject({ retryable: true });
  const first = async () => (await index.holders(scope, chain[0] ?? ("" as never))).filter(({ live }) => live);
  expect(await first()).toEqual([]);

  // The move ends; then everything comes back.
  await nodes[from]?.call("migrate", "127.0.0.1", port, "", 0, 5_000, "KEYS", ...mine.slice(0, mine.length / 2), space.seq(shard));
  for (const node of [to, from]) await nodes[node]?.call("cluster", "SETSLOT", slot, "NODE", ids[to] ?? "");
  await applyThrough(writer, log);
  const copies = await Promise.all(chain.map((key) => index.holders(scope, key)));
  expect(copies.map((holders) => holders.filter(({ live }) => live).map((holder) => holder.copies.gpu))).toEqual(chain.map(() => [2]));
});
