import { createRedisBackend } from "@kvatlas/shared/backend";
import { configSchema } from "@kvatlas/shared/config/schema";
import type { BlockIndex, SequencedOps } from "@kvatlas/shared/index/block-index";
import { blockIndexContract, chainOf } from "@kvatlas/shared/index/block-index.contract";
import { createRedisBlockIndex } from "@kvatlas/shared/index/redis-block-index";
import { createRedisKeys, scopeTag } from "@kvatlas/shared/index/redis-keys";
import { silentLogger } from "@kvatlas/shared/logger";
import { BACKGROUND_TIMEOUT_MS, createRedisConnection, type RedisConnection } from "@kvatlas/shared/redis";
import { scanPage } from "@kvatlas/shared/redis-scan";
import { slotOf } from "@kvatlas/shared/redis-slots";
import { endpointRegistryContract } from "@kvatlas/shared/registry/endpoint-registry.contract";
import { createRedisEndpointRegistry } from "@kvatlas/shared/registry/redis-endpoint-registry";
import { createRedisRoutingHistory } from "@kvatlas/shared/routing-history/redis-routing-history";
import { routingHistoryContract } from "@kvatlas/shared/routing-history/routing-history.contract";
import type { EndpointId, ScopeId } from "@kvatlas/shared/types";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { applyThroughLosses } from "../support/apply-through-losses.ts";
import { eventually, eventuallyTrue } from "../support/eventually.ts";
import { uniqueKeyPrefix } from "../support/redis.ts";
import { type RedisCluster, startRedisCluster } from "../support/redis-cluster.ts";
import { serverPrograms } from "../support/redis-server.ts";

const scope = "cluster.b16" as ScopeId;
const endpoint = "10.0.0.1:8000" as EndpointId;
const SHARDS = 16;

function connect(cluster: RedisCluster, role: "background" | "request" = "background"): RedisConnection {
  return createRedisConnection({ url: null, cluster: [...cluster.nodes], commandTimeoutMs: 1_000 }, role, silentLogger);
}

const stores = (from: number, chain: ReturnType<typeof chainOf>): SequencedOps[] =>
  chain.map((key, i) => ({ seq: from + i, ops: [{ op: "store", medium: "gpu", group: 0, keys: [key] }] }));

describe.each(await serverPrograms())("a cluster of three primaries of $name", ({ program }) => {
  let cluster: RedisCluster;
  let connection: RedisConnection;
  beforeAll(async () => {
    cluster = await startRedisCluster({ program });
    connection = connect(cluster);
  });
  afterAll(async () => {
    await connection?.close();
    await cluster?.stop();
  });

  blockIndexContract(
    async (): Promise<BlockIndex> =>
      createRedisBlockIndex({ connection, keys: createRedisKeys(uniqueKeyPrefix()) }, { defaultShards: SHARDS }),
  );
  endpointRegistryContract(async () => createRedisEndpointRegistry({ connection, keys: createRedisKeys(uniqueKeyPrefix()) }));
  routingHistoryContract(async () =>
    createRedisRoutingHistory({ connection, keys: createRedisKeys(uniqueKeyPrefix()) }, { shards: SHARDS }),
  );

  it("answers in the order of the commands, each from the node that has its key", async () => {
    const commands = Array.from({ length: 60 }, (_, i) => ["set", `order-${i}`, i] as const);
    expect(await connection.send(commands)).toEqual(commands.map(() => "OK"));
    expect(await connection.send(commands.map(([, key]) => ["get", key] as const))).toEqual(commands.map(([, , i]) => String(i)));
    const sizes = await Promise.all(cluster.nodes.map((node) => connection.sendTo(node, [["dbsize"]])));
    for (const [size] of sizes) expect(Number(size)).toBeGreaterThan(0);
  });

  it("is walked node by node, every key once", async () => {
    const prefix = uniqueKeyPrefix();
    const names = Array.from({ length: 500 }, (_, i) => `${prefix}:${i}`);
    await connection.send(names.map((name) => ["set", name, 1] as const));
    const met: string[] = [];
    for (let cursor: string | null = "0"; cursor !== null; ) {
      const page = await scanPage(connection, cursor, 100, `${prefix}:*`);
      met.push(...page.keys);
      cursor = page.next;
    }
    expect(new Set(met)).toEqual(new Set(names));
  });

  it("takes one round trip for a lookup", async () => {
    const keys = createRedisKeys(uniqueKeyPrefix());
    let sends = 0;
    const counting: RedisConnection = {
      role: connection.role,
      send: (commands, signal) => {
        sends += 1;
        return connection.send(commands, signal);
      },
      sendTo: (node, commands, signal) => connection.sendTo(node, commands, signal),
      layout: () => connection.layout(),
      subscribe: (channel, listener) => connection.subscribe(channel, listener),
      connected: (timeoutMs) => connection.connected(timeoutMs),
      close: () => connection.close(),
    };
    const index = createRedisBlockIndex({ connection: counting, keys }, { defaultShards: SHARDS });
    const registry = createRedisEndpointRegistry({ connection, keys }, { shards: SHARDS });
    const spec = { model: "m", blockSizeTokens: 16, scheme: { kind: "content", seed: "0" } } as const;
    expect(await registry.ensureScope(scope, spec)).toBe(SHARDS);
    const chain = chainOf(3, 2_000);
    const writer = await index.openWriter({ scope, endpoint, incarnation: 1, from: 0, fence: 1 });
    await writer.apply([{ seq: 0, ops: [{ op: "store", medium: "gpu", group: 0, keys: chain.slice(0, 1_234) }] }]);
    await index.lookup([{ scope, keys: chain.slice(0, 1) }]);
    sends = 0;
    const [matches] = await index.lookup([{ scope, keys: chain }]);
    expect(matches?.get(endpoint)?.blocks).toBe(1_234);
    expect(sends).toBe(1);
  });

  it("gives scopes 16 shards, and hears of changes", async () => {
    const { redis } = configSchema.parse({ redis: { cluster: cluster.nodes.slice(0, 1), keyPrefix: uniqueKeyPrefix() } });
    const backend = createRedisBackend(redis, "background", silentLogger);
    try {
      let heard = 0;
      backend.registry.onChange(() => {
        heard += 1;
      });
      const spec = { model: "m", blockSizeTokens: 16, scheme: { kind: "content", seed: "0" } } as const;
      expect(await backend.registry.ensureScope(scope, spec)).toBe(16);
      await eventuallyTrue(async () => {
        await backend.registry.acquire(endpoint, "me", 1_000);
        return heard > 0;
      });
    } finally {
      await backend.close();
    }
  });

  it("follows slots to another node while blocks are written, and counts each once", async () => {
    const keys = createRedisKeys(uniqueKeyPrefix());
    const index = createRedisBlockIndex({ connection, keys }, { defaultShards: SHARDS });
    const writer = await index.openWriter({ scope, endpoint, incarnation: 1, from: 0, fence: 1 });
    const chain = chainOf(4, 300);
    await writer.apply(stores(0, chain.slice(0, 100)));
    for (let shard = 0; shard < SHARDS; shard += 1) {
      const slot = slotOf(keys.space(scopeTag(scope)).seq(shard));
      const from = Math.min(2, Math.floor((slot * 3) / 16_384));
      if (from !== 2) await cluster.moveSlot(slot, from, 2);
    }
    await writer.apply(stores(100, chain.slice(100)));
    const [matches] = await index.lookup([{ scope, keys: chain }], { method: "exact" });
    expect(matches?.get(endpoint)?.blocks).toBe(300);
    const holders = await Promise.all(chain.map((key) => index.holders(scope, key)));
    expect(holders.every(([holder]) => holder?.copies.gpu === 1)).toBe(true);
  });
});

describe("a cluster with replicas", () => {
  it("goes on after a primary has died, and has what was lost replayed", async () => {
    const cluster = await startRedisCluster({ withReplicas: true });
    const connection = connect(cluster);
    try {
      const index = createRedisBlockIndex({ connection, keys: createRedisKeys("kva") }, { defaultShards: SHARDS });
      const writer = await index.openWriter({ scope, endpoint, incarnation: 1, from: 0, fence: 1 });
      const log = stores(0, chainOf(5, 200));
      await writer.apply(log.slice(0, 100));
      await writer.settle();
      await eventuallyTrue(async () => {
        const offsets = await Promise.all([0, 3].map((i) => cluster.client(i).info("replication")));
        const [primary, replica] = offsets.map((text) => /(?:master|slave)_repl_offset:(\d+)/.exec(text)?.[1]);
        return primary === replica;
      });
      // The replica is cut off and cannot connect again, so what follows reaches the primary alone; then the primary dies.
      cluster.replicaOf(0)?.pause();
      await cluster.client(0).call("CLIENT", "KILL", "TYPE", "replica");
      await writer.apply(log.slice(100, 150));
      await cluster.servers[0]?.stop();
      cluster.replicaOf(0)?.resume();
      expect((await applyThroughLosses(writer, log, 150)).length).toBeGreaterThan(0);
      const chain = chainOf(5, 200);
      const [matches] = await index.lookup([{ scope, keys: chain }], { method: "exact" });
      expect(matches?.get(endpoint)?.blocks).toBe(200);
      const holders = await Promise.all(chain.map((key) => index.holders(scope, key)));
      expect(holders.every(([holder]) => holder?.copies.gpu === 1)).toBe(true);
    } finally {
      await connection.close();
      await cluster.stop();
    }
  });

  it("has calls in the background wait for the successor of a dead primary, and fails those of requests", async () => {
    const cluster = await startRedisCluster({ withReplicas: true });
    const background = connect(cluster);
    const request = connect(cluster, "request");
    try {
      expect(await Promise.all([background, request].map((connection) => connection.connected(20_000)))).toEqual([true, true]);
      // One key of every primary.
      const keys = [0, 1, 2].map((primary) => {
        for (let i = 0; ; i += 1) if (Math.floor((slotOf(`k${i}`) * 3) / 16_384) === primary) return `k${i}`;
      });
      const commands = keys.map((key) => ["incr", key] as const);
      expect(await background.send(commands)).toEqual([1, 1, 1]);
      await eventuallyTrue(async () => (await cluster.client(3).info("replication")).includes("master_link_status:up"));
      await cluster.client(0).call("WAIT", 1, 5_000);
      await cluster.servers[0]?.stop();
      // As soon as the connection has gone nothing is sent before the successor is there: not to the others either, so that this is no half.
      await eventuallyTrue(() =>
        request.send([["get", keys[0] ?? ""]]).then(
          ([reply]) => reply instanceof Error,
          (error) => error.code === "KVATLAS_REDIS_UNAVAILABLE",
        ),
      );
      const hasty: string[] = [];
      const answers = await eventually(async () => {
        const startedAt = performance.now();
        const replies = await background.send(commands).catch((error: Error) => {
          // Of a failover that takes longer than anybody waits; never at once.
          if (error.message.includes("Not connected") && performance.now() - startedAt < BACKGROUND_TIMEOUT_MS - 500)
            hasty.push(error.message);
          throw error;
        });
        if (replies.some((reply) => reply instanceof Error)) throw new Error("the cluster has not agreed yet");
        return replies;
      });
      expect(hasty).toEqual([]);
      expect(answers[0]).toBe(2);
      await eventuallyTrue(() =>
        request.send(keys.map((key) => ["get", key] as const)).then(
          (replies) => replies.every((reply) => !(reply instanceof Error)),
          () => false,
        ),
      );
    } finally {
      await background.close();
      await request.close();
      await cluster.stop();
    }
  });
});
