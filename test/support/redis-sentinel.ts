import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Redis } from "ioredis";
import { eventuallyTrue } from "./eventually.ts";
import { freePortRange } from "./free-ports.ts";
import { type RedisServer, startRedisServer } from "./redis-server.ts";

/** A primary, a replica and three Sentinels that fail over within about a second. */
export interface RedisSentinels {
  readonly name: string;
  /** `host:port` of each Sentinel. */
  readonly nodes: readonly string[];
  readonly primary: RedisServer;
  readonly replica: RedisServer;
  /** Waits until the replica has all that the primary has. */
  caughtUp(): Promise<void>;
  /** The replica hears nothing more of the primary, which goes on alone. */
  cutOff(): Promise<void>;
  /** The process at a port of primary or replica at this moment; it may be dead. */
  node(port: number): RedisServer;
  /** Starts the stopped server of this port again, without data, as a replica of the one at `primaryPort`. */
  restart(port: number, primaryPort: number): Promise<void>;
  /** Whom each Sentinel takes for the primary, and what it thinks of it: `"master"` alone means that all is well. */
  views(): Promise<readonly { readonly port: number; readonly flags: string }[]>;
  /** Waits until the Sentinels name the server at this port. */
  named(port: number): Promise<void>;
  stop(): Promise<void>;
}

export interface RedisSentinelsOptions {
  /** A failover begins at the earliest twice this time after the one before. @defaultValue 5000 */
  readonly failoverTimeoutMs?: number;
  /** As in `RedisServerOptions`. */
  readonly program?: string;
}

export async function startRedisSentinels(options: RedisSentinelsOptions = {}): Promise<RedisSentinels> {
  const { failoverTimeoutMs = 5_000 } = options;
  const program = options.program === undefined ? {} : { program: options.program };
  const name = "mymaster";
  const folder = await mkdtemp(join(tmpdir(), "kvatlas-sentinel-"));
  const servers: RedisServer[] = [];
  const clients: Redis[] = [];
  const clientOf = (port: number): Redis => {
    const client = new Redis(port, "127.0.0.1");
    client.on("error", () => {});
    clients.push(client);
    return client;
  };
  const nodeAt = (port: number): RedisServer => {
    const server = servers.find((candidate) => candidate.port === port);
    if (server === undefined) throw new Error(`no server at port ${port}`);
    return server;
  };
  const stop = async (): Promise<void> => {
    for (const client of clients) client.disconnect();
    await Promise.all(servers.map((server) => server.stop()));
    await rm(folder, { recursive: true, force: true });
  };
  try {
    const args = ["--repl-diskless-sync-delay", "0"];
    const primary = await startRedisServer({ ...program, args });
    servers.push(primary);
    const replica = await startRedisServer({ ...program, args: [...args, "--replicaof", "127.0.0.1", String(primary.port)] });
    servers.push(replica);
    const [ofPrimary, ofReplica] = [clientOf(primary.port), clientOf(replica.port)];
    await eventuallyTrue(async () => (await ofReplica.info("replication")).includes("master_link_status:up"));
    const ports: number[] = [];
    for (let i = 0; i < 3; i += 1) {
      const port = await freePortRange(1);
      const file = join(folder, `sentinel-${i}.conf`);
      const lines = [
        `sentinel monitor ${name} 127.0.0.1 ${primary.port} 2`,
        `sentinel down-after-milliseconds ${name} 500`,
        `sentinel failover-timeout ${name} ${failoverTimeoutMs}`,
      ];
      await writeFile(file, `${lines.join("\n")}\n`);
      servers.push(await startRedisServer({ ...program, port, sentinelFile: file }));
      ports.push(port);
    }
    const sentinels = ports.map(clientOf);
    const field = (list: unknown, key: string): string => {
      const map = Array.isArray(list)
        ? Object.fromEntries(list.flatMap((value, i) => (i % 2 === 0 ? [[String(value), String(list[i + 1])]] : [])))
        : ((list ?? {}) as Record<string, string>);
      return String(map[key] ?? "");
    };
    await eventuallyTrue(async () => {
      const views = await Promise.all(sentinels.map((sentinel) => sentinel.call("SENTINEL", "MASTER", name)));
      return views.every((view) => field(view, "num-slaves") === "1" && field(view, "num-other-sentinels") === "2");
    });
    return {
      name,
      nodes: ports.map((port) => `127.0.0.1:${port}`),
      primary,
      replica,
      caughtUp: () =>
        eventuallyTrue(async () => {
          const [theirs, its] = await Promise.all([ofPrimary, ofReplica].map((client) => client.info("replication")));
          const offset = (text: string | undefined, key: string) => new RegExp(`${key}:(\\d+)`).exec(text ?? "")?.[1];
          return offset(theirs, "master_repl_offset") === offset(its, "slave_repl_offset");
        }),
      cutOff: async () => {
        // Paused it cannot connect again, and without a connection nothing waits for it in a socket.
        replica.pause();
        await ofPrimary.call("CLIENT", "KILL", "TYPE", "replica");
      },
      node: (port) => nodeAt(port),
      restart: async (port, primaryPort) => {
        const restarted = await startRedisServer({ ...program, port, args: [...args, "--replicaof", "127.0.0.1", String(primaryPort)] });
        servers[servers.indexOf(nodeAt(port))] = restarted;
      },
      views: () =>
        Promise.all(
          sentinels.map(async (sentinel) => {
            const view = await sentinel.call("SENTINEL", "MASTER", name);
            return { port: Number(field(view, "port")), flags: field(view, "flags") };
          }),
        ),
      named: (port) =>
        eventuallyTrue(async () => {
          const answers = await Promise.all(sentinels.map((sentinel) => sentinel.call("SENTINEL", "get-master-addr-by-name", name)));
          return answers.every((answer) => Array.isArray(answer) && Number(answer[1]) === port);
        }),
      stop,
    };
  } catch (error) {
    await stop();
    throw error;
  }
}
