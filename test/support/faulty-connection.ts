import { KvatlasError } from "@kvatlas/shared/errors";
import type { RedisCommand, RedisConnection, RedisReply } from "@kvatlas/shared/redis";

/**
 * What happens to one `send`.
 *
 * - `none`: nothing.
 * - `refused`: nothing reaches Redis.
 * - `cut`: the first half of the commands reaches Redis; the caller learns nothing.
 * - `reply lost`: all of them do; the caller learns nothing.
 * - `scripts forgotten`: Redis forgets its scripts first, as after a restart or a failover.
 */
export type Fault = "none" | "refused" | "cut" | "reply lost" | "scripts forgotten";

/** A connection on which faults happen when the test says so; otherwise the real one. */
export function createFaultyConnection(connection: RedisConnection, nextFault: () => Fault): RedisConnection {
  const lost = (what: string) => new KvatlasError("KVATLAS_REDIS_UNAVAILABLE", `injected: ${what}`);
  return {
    role: connection.role,
    subscribe: (channel, listener) => connection.subscribe(channel, listener),
    connected: (timeoutMs) => connection.connected(timeoutMs),
    close: () => connection.close(),
    layout: () => connection.layout(),
    sendTo: (node, commands, signal) => connection.sendTo(node, commands, signal),
    async send(commands: readonly RedisCommand[], signal?: AbortSignal): Promise<readonly RedisReply[]> {
      const fault = nextFault();
      if (fault === "refused") throw lost(fault);
      if (fault === "scripts forgotten") {
        const { nodes } = await connection.layout();
        await Promise.all(nodes.map((node) => connection.sendTo(node, [["script", "FLUSH", "SYNC"]])));
      }
      const replies = await connection.send(fault === "cut" ? commands.slice(0, Math.ceil(commands.length / 2)) : commands, signal);
      if (fault === "cut" || fault === "reply lost") throw lost(fault);
      return replies;
    },
  };
}
