import { type Backend, type BackendOptions, createMemoryBackend, createRedisBackend } from "@kvatlas/shared/backend";
import type { RedisConfig } from "@kvatlas/shared/config/schema";
import type { Logger } from "@kvatlas/shared/logger";
import { hasRedis } from "@kvatlas/shared/redis-topology";

/** `request` fails fast, for the path of requests; `background` waits for Redis to come back. */
export type BackendRole = "request" | "background";

/** The backends of one process: without Redis all roles share one in memory. */
export interface Backends {
  open(role: BackendRole): Backend;
  /** Closes every one of them; failures are logged. */
  close(): Promise<void>;
}

export function createBackends(redis: RedisConfig, logger: Logger, options: BackendOptions = {}): Backends {
  const opened = new Map<BackendRole | "memory", Backend>();
  return {
    open: (role) => {
      const key = !hasRedis(redis) ? "memory" : role;
      const earlier = opened.get(key);
      if (earlier !== undefined) return earlier;
      const backend = !hasRedis(redis) ? createMemoryBackend() : createRedisBackend(redis, role, logger, options);
      opened.set(key, backend);
      return backend;
    },
    close: async () => {
      const results = await Promise.allSettled([...opened.values()].map((backend) => backend.close()));
      for (const result of results) if (result.status === "rejected") logger.error({ err: result.reason }, "backend did not close cleanly");
    },
  };
}
