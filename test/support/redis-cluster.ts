import { mkdir, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { SLOTS } from "@kvatlas/shared/redis-slots";
import { Redis } from "ioredis";
import { eventuallyTrue } from "./eventually.ts";
import { freeClusterPort } from "./free-ports.ts";
import { type RedisServer, startRedisServer } from "./redis-server.ts";

/** A real Redis Cluster on loopback: its nodes are processes of the tests' own. */
export interface RedisCluster {
  /** `host:port` of every primary, in the order of their slots. */
  readonly nodes: readonly string[];
  readonly servers: readonly RedisServer[];
  /** Of primary `i`; null without replicas. */
  replicaOf(i: number): RedisServer | null;
  /** A plain client of one node, by its number. */
  client(i: number): Redis;
  /** Of every node, primaries first, then the replica of each, as they were at the start. */
  readonly ports: readonly number[];
  /** The process of node `i` of `ports` at this moment; it may be dead. */
  node(i: number): RedisServer;
  /** Starts a node that has been stopped at its port again: it remembers the cluster, and no data since its last full copy. */
  restart(i: number): Promise<void>;
  /** Moves a slot, and the keys in it, from one node to another while clients go on. */
  moveSlot(slot: number, from: number, to: number): Promise<void>;
  stop(): Promise<void>;
}

export interface RedisClusterOptions {
  /** @defaultValue 3 */
  readonly primaries?: number;
  /** One for each primary. @defaultValue false */
  readonly withReplicas?: boolean;
  /** As in `RedisServerOptions`. */
  readonly program?: string;
}

export async function startRedisCluster(options: RedisClusterOptions = {}): Promise<RedisCluster> {
  const { primaries = 3, withReplicas = false } = options;
  const program = options.program === undefined ? {} : { program: options.program };
  const count = withReplicas ? 2 * primaries : primaries;
  const args = [
    "--cluster-enabled",
    "yes",
    "--cluster-node-timeout",
    "1000",
    "--cluster-replica-validity-factor",
    "0",
    "--repl-diskless-sync-delay",
    "0",
  ];
  const folder = await mkdtemp(join(tmpdir(), "kvatlas-cluster-"));
  const servers: RedisServer[] = [];
  const clients: Redis[] = [];
  const stop = async (): Promise<void> => {
    for (const client of clients) client.disconnect();
    await Promise.all(servers.map((server) => server.stop()));
    await rm(folder, { recursive: true, force: true });
  };
  const nodeFolder = (i: number): string => join(folder, String(i));
  const nodeOf = (i: number): RedisServer => {
    const server = servers[i];
    if (server === undefined) throw new Error(`no node ${i}`);
    return server;
  };
  try {
    for (let i = 0; i < count; i += 1) {
      await mkdir(nodeFolder(i));
      const server = await startRedisServer({ ...program, args, port: await freeClusterPort(), folder: nodeFolder(i) });
      servers.push(server);
      const client = new Redis(server.port, "127.0.0.1");
      client.on("error", () => {});
      clients.push(client);
    }
    const call = (i: number, ...words: [string, ...(string | number)[]]): Promise<unknown> => {
      const client = clients[i];
      if (client === undefined) throw new Error(`no node ${i}`);
      const [name, ...rest] = words;
      return client.call(name, ...rest.map(String));
    };
    const ids: string[] = [];
    for (let i = 0; i < count; i += 1) ids.push(String(await call(i, "cluster", "MYID")));
    for (let i = 0; i < primaries; i += 1) {
      const [from, to] = [i, i + 1].map((n) => Math.floor((SLOTS * n) / primaries));
      await call(i, "cluster", "ADDSLOTSRANGE", from ?? 0, (to ?? 0) - 1);
      await call(i, "cluster", "SET-CONFIG-EPOCH", i + 1);
    }
    for (let i = 1; i < count; i += 1) await call(i, "cluster", "MEET", "127.0.0.1", servers[0]?.port ?? 0);
    const everyNode = async (condition: (i: number) => Promise<boolean>): Promise<boolean> =>
      (await Promise.all(servers.map((_, i) => condition(i)))).every(Boolean);
    await eventuallyTrue(() =>
      everyNode(async (i) => {
        const text = String(await call(i, "cluster", "NODES"));
        return ids.every((id) => text.includes(id)) && !text.includes("handshake");
      }),
    );
    for (let i = primaries; i < count; i += 1) await call(i, "cluster", "REPLICATE", ids[i - primaries] ?? "");
    await eventuallyTrue(() => everyNode(async (i) => String(await call(i, "cluster", "INFO")).includes("cluster_state:ok")));
    for (let i = primaries; i < count; i += 1)
      await eventuallyTrue(async () => String(await call(i, "info", "replication")).includes("master_link_status:up"));
    return {
      nodes: servers.slice(0, primaries).map(({ port }) => `127.0.0.1:${port}`),
      servers: servers.slice(0, primaries),
      replicaOf: (i) => servers[primaries + i] ?? null,
      client: (i) => {
        const client = clients[i];
        if (client === undefined) throw new Error(`no node ${i}`);
        return client;
      },
      ports: servers.map(({ port }) => port),
      node: nodeOf,
      restart: async (i) => {
        servers[i] = await startRedisServer({ ...program, args, port: nodeOf(i).port, folder: nodeFolder(i) });
      },
      moveSlot: async (slot, from, to) => {
        await call(to, "cluster", "SETSLOT", slot, "IMPORTING", ids[from] ?? "");
        await call(from, "cluster", "SETSLOT", slot, "MIGRATING", ids[to] ?? "");
        for (;;) {
          const keys = (await call(from, "cluster", "GETKEYSINSLOT", slot, 100)) as string[];
          if (keys.length === 0) break;
          await call(from, "migrate", "127.0.0.1", servers[to]?.port ?? 0, "", 0, 5_000, "KEYS", ...keys);
        }
        await call(to, "cluster", "SETSLOT", slot, "NODE", ids[to] ?? "");
        await call(from, "cluster", "SETSLOT", slot, "NODE", ids[to] ?? "");
      },
      stop,
    };
  } catch (error) {
    await stop();
    throw error;
  }
}
