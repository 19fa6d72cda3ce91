import { isKvatlasError } from "./errors.ts";
import type { RedisConnection, RedisReply } from "./redis.ts";
import { type RedisErrorCode, redisErrorCode } from "./redis-error.ts";

/** The same connection, except that somebody hears of every answer that is an error, and of every call that had none. */
export function observeConnection(connection: RedisConnection, onError: (code: RedisErrorCode) => void): RedisConnection {
  async function heard(call: Promise<readonly RedisReply[]>): Promise<readonly RedisReply[]> {
    try {
      const replies = await call;
      for (const reply of replies) if (reply instanceof Error) onError(redisErrorCode(reply));
      return replies;
    } catch (error) {
      // A caller that has lost interest is no fault of Redis.
      if (!isKvatlasError(error, "KVATLAS_DEADLINE_EXCEEDED")) onError(redisErrorCode(error));
      throw error;
    }
  }
  return {
    role: connection.role,
    send: (commands, signal) => heard(connection.send(commands, signal)),
    sendTo: (node, commands, signal) => heard(connection.sendTo(node, commands, signal)),
    layout: () => connection.layout(),
    subscribe: (channel, listener) => connection.subscribe(channel, listener),
    connected: (timeoutMs) => connection.connected(timeoutMs),
    close: () => connection.close(),
  };
}
