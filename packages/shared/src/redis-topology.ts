import type { RedisConfig } from "./config/schema.ts";

/** How Redis is reached: not at all, one server, the primary that Sentinels name, or a cluster. */
export type RedisTopology = "none" | "single" | "sentinel" | "cluster";

type Addresses = Pick<RedisConfig, "url"> & Partial<Pick<RedisConfig, "cluster" | "sentinel">>;

export function redisTopology(config: Addresses): RedisTopology {
  if ((config.cluster ?? []).length > 0) return "cluster";
  if ((config.sentinel?.nodes ?? []).length > 0) return "sentinel";
  return config.url === null ? "none" : "single";
}

/** True when the configuration names a Redis. */
export function hasRedis(config: Addresses): boolean {
  return redisTopology(config) !== "none";
}

/** Host and port of what is configured, for logs and errors: without user and password. */
export function serversOf(config: Addresses): string {
  switch (redisTopology(config)) {
    case "cluster":
      return `cluster ${(config.cluster ?? []).join(", ")}`;
    case "sentinel":
      return `${config.sentinel?.name ?? ""} of Sentinels ${(config.sentinel?.nodes ?? []).join(", ")}`;
    case "single":
      return hostOf(config.url ?? "");
    case "none":
      return "(none)";
  }
}

function hostOf(url: string): string {
  try {
    return new URL(url).host;
  } catch {
    return "(unreadable redis.url)";
  }
}

const LEAST_CLUSTER_SHARDS = 16;
/** One character of a key in base 36. */
const SHARDS_IN_ONE_CHARACTER = 36;

/**
 * Shards of a scope registered now. One where there is one server: a script call then carries more operations. In a cluster some for every
 * primary, so that their load is even; not many more, because a batch of 64 blocks is spread over all of them.
 */
export function shardsFor(topology: RedisTopology, primaries: number): number {
  if (topology !== "cluster") return 1;
  return Math.max(LEAST_CLUSTER_SHARDS, Math.min(SHARDS_IN_ONE_CHARACTER, 4 * primaries), primaries);
}
