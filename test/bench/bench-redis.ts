import { cpus } from "node:os";
import { silentLogger } from "@kvatlas/shared/logger";
import { createRedisConnection, type RedisConnection } from "@kvatlas/shared/redis";
import { Redis } from "ioredis";
import { startRedisServer } from "../support/redis-server.ts";

/** A Redis of the bench's own, with the connection under test and a plain client for floors and for looking at the server. */
export interface BenchRedis {
  readonly url: string;
  readonly connection: RedisConnection;
  readonly raw: Redis;
  readonly about: Readonly<Record<string, string | number>>;
  /** CPU seconds the server has used, user and system. */
  cpuSeconds(): Promise<number>;
  usedBytes(): Promise<number>;
  close(): Promise<void>;
}

export async function startBenchRedis(): Promise<BenchRedis> {
  const server = await startRedisServer();
  const connection = createRedisConnection({ url: server.url, commandTimeoutMs: 10_000 }, "background", silentLogger);
  const raw = new Redis(server.url);
  const info = await raw.info("server");
  const field = (text: string, name: string) => new RegExp(`^${name}:(.*)$`, "m").exec(text)?.[1]?.trim() ?? "";
  return {
    url: server.url,
    connection,
    raw,
    about: { redis: field(info, "redis_version"), node: process.versions.node, cores: cpus().length, cpu: cpus()[0]?.model ?? "" },
    cpuSeconds: async () => {
      const cpu = await raw.info("cpu");
      return Number(field(cpu, "used_cpu_user")) + Number(field(cpu, "used_cpu_sys"));
    },
    usedBytes: async () => Number(field(await raw.info("memory"), "used_memory")),
    close: async () => {
      await connection.close();
      raw.disconnect();
      await server.stop();
    },
  };
}
