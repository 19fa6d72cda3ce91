import { Redis } from "ioredis";
import { eventually } from "../support/eventually.ts";
import { startRedisCluster } from "../support/redis-cluster.ts";
import { startRedisSentinels } from "../support/redis-sentinel.ts";
import type { RedisServer } from "../support/redis-server.ts";
import type { RedisAddress } from "./ingester-fleet.ts";

/** A primary and its replica, in whichever order at this moment. */
type Pair = readonly [number, number];

/** What differs between Sentinel and a cluster. */
interface Group {
  readonly address: RedisAddress;
  /** Ports. */
  readonly pairs: readonly Pair[];
  server(port: number): RedisServer;
  /** Ports of the primaries, one of each pair, as soon as everybody agrees; rejects until then. */
  primaries(dead: ReadonlySet<number>): Promise<readonly number[]>;
  /** Starts a dead one again, which has a successor. */
  restart(port: number): Promise<void>;
  /** What the group does by itself with one that has a successor, sooner. */
  demote(port: number, primary: number): Promise<void>;
  stop(): Promise<void>;
}

const commandTimeoutMs = 1_000;
/** For a failover, and for one that has to wait for the one before. */
const decisionTimeoutMs = 15_000;

/** Redis behind Sentinel or a Redis Cluster, with one replica for each primary: primaries die or stand still, and replicas take over. */
export class ReplicatedRedis {
  readonly #group: Group;
  readonly #dead = new Set<number>();
  /** Primaries whose replicas hear nothing. */
  readonly #cutOff = new Map<number, { readonly primary: number; readonly replica: number }>();

  private constructor(group: Group) {
    this.#group = group;
  }

  static async start(topology: "sentinel" | "cluster"): Promise<ReplicatedRedis> {
    return new ReplicatedRedis(topology === "sentinel" ? await sentinelGroup() : await clusterGroup());
  }

  get address(): RedisAddress {
    return this.#group.address;
  }

  /** A primary stands still; when it does for long, it is failed over, and comes back as one that does not know. */
  async pause(target: number): Promise<void> {
    const { primary } = await this.#rolesOf(target);
    this.#group.server(primary).pause();
  }

  resume(): void {
    for (const port of this.#alive()) this.#group.server(port).resume();
  }

  /**
   * What a primary acknowledges from now on reaches it alone.
   *
   * @throws Error one of the two is not there, so that nobody could take over.
   */
  async cutOff(target: number): Promise<void> {
    const { primary, replica, follows } = await this.#rolesOf(target);
    if (!follows) throw new Error(`${primary} has no replica`);
    this.#cutOff.set(target, { primary, replica });
    // Paused it cannot connect again, and without a connection nothing waits for it in a socket.
    this.#group.server(replica).pause();
    await command(primary, "CLIENT", "KILL", "TYPE", "replica");
  }

  /** SIGKILL to the primary whose replica has been cut off, which then takes over. */
  async killPrimary(target: number): Promise<void> {
    const roles = this.#cutOff.get(target);
    if (roles === undefined) return;
    this.#cutOff.delete(target);
    const { primary, replica } = roles;
    // Another fault may have been quicker.
    if (!this.#dead.has(primary) && !this.#dead.has(replica)) {
      this.#dead.add(primary);
      await this.#group.server(primary).stop();
    }
    this.#group.server(replica).resume();
  }

  /** Lets failovers come to their end, and starts the dead again: they become replicas. */
  async start(): Promise<void> {
    await eventually(() => this.#group.primaries(this.#dead), decisionTimeoutMs);
    for (const port of [...this.#dead]) {
      await this.#group.restart(port);
      this.#dead.delete(port);
    }
    await eventually(() => this.#whole(), decisionTimeoutMs);
  }

  async forgetScripts(): Promise<void> {
    await Promise.all(this.#alive().map((port) => command(port, "SCRIPT", "FLUSH")));
  }

  async disconnectClients(): Promise<void> {
    await Promise.all(this.#alive().map((port) => command(port, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")));
  }

  async stop(): Promise<void> {
    await this.#group.stop();
  }

  async #whole(): Promise<void> {
    for (const index of this.#group.pairs.keys()) {
      const { primary, replica, follows } = await this.#rolesOf(index);
      if (follows) continue;
      await this.#group.demote(replica, primary);
      throw new Error(`${replica} does not follow ${primary} yet`);
    }
  }

  /** @throws Error nobody is primary now, or there are several who say so. */
  async #rolesOf(target: number): Promise<{ readonly primary: number; readonly replica: number; readonly follows: boolean }> {
    const pair = this.#pairOf(target);
    const primaries = await this.#group.primaries(this.#dead);
    const [primary, replica] = primaries.includes(pair[0]) ? pair : ([pair[1], pair[0]] as const);
    const text = this.#dead.has(replica) ? "" : await replication(replica);
    return { primary, replica, follows: text.includes(`master_port:${primary}\r`) && text.includes("master_link_status:up") };
  }

  #pairOf(target: number): Pair {
    const { pairs } = this.#group;
    const pair = pairs[target % pairs.length];
    if (pair === undefined) throw new Error("there are no primaries");
    return pair;
  }

  #alive(): readonly number[] {
    return this.#group.pairs.flat().filter((port) => !this.#dead.has(port));
  }
}

async function sentinelGroup(): Promise<Group> {
  const sentinels = await startRedisSentinels({ failoverTimeoutMs: 1_000 });
  const named = async (): Promise<number> => {
    const views = await sentinels.views();
    const [first] = views;
    const isSettled = views.every(({ port, flags }) => port === first?.port && flags === "master");
    if (first === undefined || !isSettled) throw new Error(`the Sentinels are not of one mind: ${JSON.stringify(views)}`);
    return first.port;
  };
  return {
    address: { sentinel: { name: sentinels.name, nodes: sentinels.nodes } },
    pairs: [[sentinels.primary.port, sentinels.replica.port]],
    server: (port) => sentinels.node(port),
    primaries: async (dead) => {
      const port = await named();
      if (dead.has(port) || !(await replication(port)).includes("role:master")) throw new Error(`the Sentinels still name ${port}`);
      return [port];
    },
    restart: async (port) => sentinels.restart(port, await named()),
    // Sentinels wait for 8 s before they do.
    demote: async (port, primary) => void (await command(port, "REPLICAOF", "127.0.0.1", String(primary))),
    stop: () => sentinels.stop(),
  };
}

async function clusterGroup(): Promise<Group> {
  const cluster = await startRedisCluster({ withReplicas: true });
  const { ports } = cluster;
  const count = ports.length / 2;
  const pairs = ports.slice(0, count).map((port, i): Pair => [port, ports[count + i] ?? port]);
  const primariesNow = async (dead: ReadonlySet<number>): Promise<readonly number[]> => {
    const seen = new Set<number>();
    for (const port of ports.filter((candidate) => !dead.has(candidate))) {
      const lines = String(await command(port, "CLUSTER", "NODES"))
        .trim()
        .split("\n");
      // id host:port@bus flags primary ping pong epoch link slots...
      const primaries = lines.map((line) => line.split(" ")).filter(([, , flags, , , , , , slots]) => flags?.includes("master") && slots);
      const owners = primaries.map(([, address]) => Number(/:(\d+)@/.exec(address ?? "")?.[1]));
      const isSound = primaries.every(([, , flags]) => !flags?.includes("fail"));
      if (owners.length !== count || !isSound || owners.some((owner) => dead.has(owner)))
        throw new Error(`${port} sees the primaries ${owners.join(", ")}`);
      if (!String(await command(port, "CLUSTER", "INFO")).includes("cluster_state:ok")) throw new Error(`${port} sees no cluster`);
      for (const owner of owners) seen.add(owner);
    }
    if (seen.size !== count) throw new Error(`the nodes see the primaries ${[...seen].join(", ")}`);
    return [...seen];
  };
  return {
    address: { cluster: cluster.nodes },
    pairs,
    server: (port) => cluster.node(ports.indexOf(port)),
    primaries: primariesNow,
    restart: (port) => cluster.restart(ports.indexOf(port)),
    // It does so as soon as it hears of its successor.
    demote: async () => {},
    stop: () => cluster.stop(),
  };
}

function replication(port: number): Promise<string> {
  return command(port, "INFO", "replication").then(String);
}

/** Over a connection of its own, which nothing that happens to others concerns. */
async function command(port: number, name: string, ...args: readonly string[]): Promise<unknown> {
  const client = new Redis(port, "127.0.0.1", {
    retryStrategy: () => null,
    lazyConnect: true,
    enableReadyCheck: false,
    connectTimeout: commandTimeoutMs,
    commandTimeout: commandTimeoutMs,
  });
  client.on("error", () => {});
  try {
    await client.connect();
    return await client.call(name, ...args);
  } finally {
    client.disconnect();
  }
}
