import { createRedisBackend } from "@kvatlas/shared/backend";
import { chainOf } from "@kvatlas/shared/index/block-index.contract";
import { createRedisBlockIndex } from "@kvatlas/shared/index/redis-block-index";
import { createRedisKeys } from "@kvatlas/shared/index/redis-keys";
import { type Logger, silentLogger } from "@kvatlas/shared/logger";
import { createRedisConnection, type RedisConnection, type RedisRole } from "@kvatlas/shared/redis";
import type { EndpointId, ScopeId } from "@kvatlas/shared/types";
import { Redis } from "ioredis";
import { afterEach, describe, expect, it } from "vitest";
import { freePort, type RedisServer, startRedisServer } from "../support/redis-server.ts";

const scope = "faults.b16" as ScopeId;
const endpoint = "10.0.0.1:8000" as EndpointId;
const chain = chainOf(1, 20);
const toClose: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  for (const close of toClose.splice(0).reverse()) await close();
});

async function server(options: Parameters<typeof startRedisServer>[0] = {}): Promise<RedisServer> {
  const started = await startRedisServer(options);
  toClose.push(() => started.stop());
  return started;
}

function connect(url: string, role: RedisRole, commandTimeoutMs = 100, logger: Logger = silentLogger): RedisConnection {
  const connection = createRedisConnection({ url, commandTimeoutMs }, role, logger);
  toClose.push(() => connection.close());
  return connection;
}

async function until(condition: () => Promise<boolean>): Promise<void> {
  const deadline = performance.now() + 20_000;
  while (!(await condition())) {
    if (performance.now() > deadline) throw new Error("the condition did not come true within 20 s");
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

const unavailable = { code: "KVATLAS_REDIS_UNAVAILABLE", retryable: true };

describe("a connection for requests", () => {
  it("fails at once while Redis cannot be reached, and works when it comes up", async () => {
    const port = await freePort();
    const connection = connect(`redis://127.0.0.1:${port}`, "request");
    expect(await connection.connected(50)).toBe(false);
    await expect(connection.send([["ping"]])).rejects.toMatchObject(unavailable);
    await server({ port });
    expect(await connection.connected(20_000)).toBe(true);
    expect(await connection.send([["ping"], ["nonsense"]])).toEqual(["PONG", expect.objectContaining({ name: "ReplyError" })]);
  });

  it("gives up on a Redis that hangs, and goes on when it answers again", async () => {
    const redis = await server();
    const connection = connect(redis.url, "request");
    await connection.connected(20_000);
    redis.pause();
    await expect(connection.send([["ping"]])).rejects.toMatchObject(unavailable);
    redis.resume();
    await until(() =>
      connection.send([["ping"]]).then(
        () => true,
        () => false,
      ),
    );
    expect(await connection.send([["echo", "mine"]])).toEqual(["mine"]);
  });

  it("lets its caller cancel", async () => {
    const redis = await server();
    const connection = connect(redis.url, "request", 20_000);
    await connection.connected(20_000);
    redis.pause();
    const controller = new AbortController();
    const pending = connection.send([["ping"]], controller.signal);
    controller.abort();
    await expect(pending).rejects.toMatchObject({ code: "KVATLAS_DEADLINE_EXCEEDED" });
    redis.resume();
  });
});

describe("a connection for background work", () => {
  it("waits for Redis to come up", async () => {
    const port = await freePort();
    const connection = connect(`redis://127.0.0.1:${port}`, "background");
    const pending = connection.send([["ping"]]);
    await server({ port });
    expect(await pending).toEqual(["PONG"]);
  });

  it("rejects what is under way when Redis dies, and applies it once when it is back without its scripts", async () => {
    const redis = await server();
    const connection = connect(redis.url, "background");
    const index = createRedisBlockIndex({ connection, keys: createRedisKeys("kva") });
    const writer = await index.openWriter({ scope, endpoint, incarnation: 1, from: 0, fence: 1 });
    const batch = { seq: 0, ops: [{ op: "store", medium: "gpu", group: 0, keys: chain }] } as const;
    redis.pause();
    const pending = writer.apply([batch]);
    const rejected = expect(pending).rejects.toMatchObject(unavailable);
    await redis.stop();
    await rejected;
    await server({ port: redis.port });
    // Nothing was persisted: the writer notices, and goes on from what there is.
    await expect(writer.apply([batch])).rejects.toMatchObject({ code: "KVATLAS_INDEX_BEHIND" });
    await writer.apply([batch]);
    const [matches] = await index.lookup([{ scope, keys: chain }]);
    expect(matches?.get(endpoint)).toEqual({ blocks: 20, byMedium: { gpu: 20 } });
  });

  it("says that memory has run out, and applies exactly once when there is room again", async () => {
    const redis = await server();
    const connection = connect(redis.url, "background");
    const raw = new Redis(redis.url);
    toClose.push(async () => raw.disconnect());
    const index = createRedisBlockIndex({ connection, keys: createRedisKeys("kva") });
    const writer = await index.openWriter({ scope, endpoint, incarnation: 1, from: 0, fence: 1 });
    await raw.config("SET", "maxmemory", "1mb");
    const batch = { seq: 0, ops: [{ op: "store", medium: "gpu", group: 0, keys: [...chain, ...chain] }] } as const;
    await expect(writer.apply([batch])).rejects.toMatchObject({ ...unavailable, message: expect.stringContaining("maxmemory") });
    // Reading goes on.
    expect(await index.lookup([{ scope, keys: chain }])).toEqual([new Map()]);
    await raw.config("SET", "maxmemory", "0");
    await writer.apply([batch]);
    const [first] = chain;
    if (first === undefined) throw new Error("no chain");
    expect(await index.holders(scope, first)).toMatchObject([{ copies: { gpu: 2 } }]);
  });

  it("hears of changes again after Redis has been away", async () => {
    const redis = await server();
    const connection = connect(redis.url, "background");
    let heard = 0;
    connection.subscribe("news", () => {
      heard += 1;
    });
    const publish = () => connection.send([["publish", "news", "x"]]);
    await until(async () => {
      await publish();
      return heard > 0;
    });
    await redis.stop();
    await server({ port: redis.port });
    const before = heard;
    await until(async () => {
      await publish().catch(() => {});
      return heard > before;
    });
  });
});

describe("every connection", () => {
  it("never shows the password, in logs or errors, and says who refuses", async () => {
    const redis = await server({ args: ["--requirepass", "right"] });
    const lines: string[] = [];
    const say = (...parts: unknown[]) => void lines.push(JSON.stringify(parts));
    const logger = { ...silentLogger, child: () => ({ ...silentLogger, warn: say, info: say, error: say }) } as unknown as Logger;
    const connection = connect(`redis://:s3cret@127.0.0.1:${redis.port}`, "request", 100, logger);
    expect(await connection.connected(500)).toBe(false);
    const error = await connection.send([["ping"]]).catch((reason: Error) => reason);
    expect(lines.join("\n")).toMatch(/WRONGPASS/);
    expect(`${lines.join("\n")} ${String(error)}`).not.toContain("s3cret");
    expect(String(error)).toContain(`127.0.0.1:${redis.port}`);
  });

  it("rejects at once when it has been closed", async () => {
    const redis = await server();
    for (const role of ["request", "background"] as const) {
      const connection = connect(redis.url, role);
      await connection.connected(20_000);
      await connection.close();
      await connection.close();
      await expect(connection.send([["ping"]])).rejects.toMatchObject({ ...unavailable, message: expect.stringContaining("closed") });
    }
  });

  it("is behind a backend that starts, answers and closes without Redis", async () => {
    const backend = createRedisBackend(
      { url: `redis://127.0.0.1:${await freePort()}`, keyPrefix: "kva", commandTimeoutMs: 50 },
      "request",
      silentLogger,
    );
    expect(await backend.connected(20)).toBe(false);
    await expect(backend.index.lookup([{ scope, keys: chain }])).rejects.toMatchObject(unavailable);
    await expect(backend.registry.readLoad(["r"])).rejects.toMatchObject(unavailable);
    backend.registry.onChange(() => {});
    await backend.close();
  });
});
