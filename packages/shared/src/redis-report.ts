import type { Logger } from "./logger.ts";
import { type RedisErrorCode, redisErrorCode } from "./redis-error.ts";

const LOG_EVERY_MS = 10_000;

/** Says once when a connection is lost and why, again while it stays so, and when it is back. */
export function reportConnection(
  client: { on(event: string, listener: (error: Error) => void): unknown },
  logger: Logger,
  options: { readonly connection: string; readonly server: string; readonly onError: (code: RedisErrorCode) => void },
): void {
  const { connection, server, onError } = options;
  let lastLog = Number.NEGATIVE_INFINITY;
  let isLost = false;
  client.on("error", (error) => {
    isLost = true;
    onError(redisErrorCode(error));
    const now = performance.now();
    if (now - lastLog < LOG_EVERY_MS) return;
    lastLog = now;
    logger.warn({ connection, server, reason: error.message }, "redis cannot be reached; trying again");
  });
  client.on("ready", () => {
    logger.info({ connection, server }, isLost ? "redis is back" : "connected to redis");
    isLost = false;
    lastLog = Number.NEGATIVE_INFINITY;
  });
}
