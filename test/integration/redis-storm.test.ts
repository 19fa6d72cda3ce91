import { createServer } from "node:net";
import { silentLogger } from "@kvatlas/shared/logger";
import { createRedisConnection } from "@kvatlas/shared/redis";
import { expect, it, onTestFinished } from "vitest";
import { eventually, eventuallyTrue } from "../support/eventually.ts";
import { freePort, startRedisServer } from "../support/redis-server.ts";

const clients = 50;
/** Least wait before the n-th attempt to connect again: half of 50 ms doubled n - 1 times, of a second at most. */
const leastWaitMs = (attempt: number): number => Math.min(1_000, 50 * 2 ** (attempt - 1)) / 2;

/** The most attempts of one client in this time. */
function mostAttempts(elapsedMs: number): number {
  let attempts = 0;
  for (let at = leastWaitMs(1); at <= elapsedMs; at += leastWaitMs(attempts + 1)) attempts += 1;
  return attempts;
}

it("fifty clients that lose their Redis at once come back less and less often, until it is there again", { timeout: 90_000 }, async () => {
  const port = await freePort();
  const redis = await startRedisServer({ port });
  onTestFinished(() => redis.stop());
  const connections = Array.from({ length: clients }, (_, i) =>
    createRedisConnection(
      { url: `redis://127.0.0.1:${port}`, commandTimeoutMs: 1_000 },
      i % 2 === 0 ? "background" : "request",
      silentLogger,
    ),
  );
  onTestFinished(async () => {
    for (const connection of connections) await connection.close();
  });
  expect(await Promise.all(connections.map((connection) => connection.connected(20_000)))).toEqual(connections.map(() => true));

  // In its place somebody who hangs up at once, and counts.
  let attempts = 0;
  const impostor = createServer((socket) => {
    attempts += 1;
    socket.on("error", () => {});
    socket.destroy();
  });
  onTestFinished(() => new Promise((resolve) => impostor.close(() => resolve())));
  const lostAt = performance.now();
  await redis.stop();
  await new Promise<void>((resolve) => impostor.listen(port, "127.0.0.1", resolve));
  const enough = 6 * clients;
  await eventuallyTrue(() => attempts >= enough, 60_000);
  expect(attempts).toBeLessThanOrEqual(clients * (mostAttempts(performance.now() - lostAt) + 1));

  await new Promise<void>((resolve) => impostor.close(() => resolve()));
  const again = await eventually(() => startRedisServer({ port }));
  onTestFinished(() => again.stop());
  expect(await Promise.all(connections.map((connection) => connection.connected(20_000)))).toEqual(connections.map(() => true));
  expect(await connections[0]?.send([["ping"]])).toEqual(["PONG"]);
});
