import { SLOTS, slotOf } from "@kvatlas/shared/redis-slots";
import { shardsFor } from "@kvatlas/shared/redis-topology";
import { Cluster, Redis } from "ioredis";
import type { RedisAddress } from "../../faults/ingester-fleet.ts";
import { startRedisCluster } from "../../support/redis-cluster.ts";
import { startRedisSentinels } from "../../support/redis-sentinel.ts";
import { startRedisServer } from "../../support/redis-server.ts";

export const topologies = ["single", "sentinel", "cluster"] as const;
export type BenchTopology = (typeof topologies)[number];

/** Servers of the bench's own, without persistence, and plain clients of them. */
export interface BenchServers {
  readonly address: RedisAddress;
  readonly shards: number;
  /** Of whoever has a key. */
  readonly client: Redis | Cluster;
  /** Of the primary that has a key. */
  portOf(key: string): number;
  /** CPU seconds that all primaries have used, user and system. */
  cpuSeconds(): Promise<number>;
  stop(): Promise<void>;
}

interface Started {
  readonly address: RedisAddress;
  readonly shards: number;
  readonly ports: readonly number[];
  stop(): Promise<void>;
}

export async function startServers(topology: BenchTopology): Promise<BenchServers> {
  const started = await start(topology);
  const primaries = started.ports.map((port) => quiet(new Redis(port, "127.0.0.1")));
  const hosts = started.ports.map((port) => ({ host: "127.0.0.1", port }));
  const [first] = primaries;
  if (first === undefined) throw new Error("no primary has been started");
  const client = topology === "cluster" ? quiet(new Cluster(hosts)) : first;
  return {
    address: started.address,
    shards: started.shards,
    client,
    // A new cluster's primaries have equal ranges of slots, in order.
    portOf: (key) => started.ports[Math.floor((slotOf(key) * started.ports.length) / SLOTS)] ?? 0,
    cpuSeconds: async () => {
      const texts = await Promise.all(primaries.map((primary) => primary.info("cpu")));
      return texts.reduce((sum, text) => sum + numberIn(text, "used_cpu_user") + numberIn(text, "used_cpu_sys"), 0);
    },
    stop: async () => {
      for (const open of new Set([client, ...primaries])) open.disconnect();
      await started.stop();
    },
  };
}

async function start(topology: BenchTopology): Promise<Started> {
  if (topology === "single") {
    const server = await startRedisServer();
    return { address: { port: server.port }, shards: 1, ports: [server.port], stop: () => server.stop() };
  }
  if (topology === "sentinel") {
    const sentinels = await startRedisSentinels();
    const address = { sentinel: { name: sentinels.name, nodes: sentinels.nodes } };
    return { address, shards: 1, ports: [sentinels.primary.port], stop: () => sentinels.stop() };
  }
  const cluster = await startRedisCluster();
  const { nodes, servers } = cluster;
  const ports = servers.map(({ port }) => port);
  return { address: { cluster: nodes }, shards: shardsFor("cluster", nodes.length), ports, stop: () => cluster.stop() };
}

/** Errors show in the calls that fail. */
function quiet<Client extends Redis | Cluster>(client: Client): Client {
  client.on("error", () => {});
  return client;
}

function numberIn(text: string, name: string): number {
  return Number(new RegExp(`^${name}:(.*)$`, "m").exec(text)?.[1] ?? Number.NaN);
}
