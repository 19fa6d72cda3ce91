import type { RedisConfig } from "@kvatlas/shared/config/schema";
import { redisTopology } from "@kvatlas/shared/redis-topology";

type Redis = Pick<RedisConfig, "url"> & Partial<Pick<RedisConfig, "cluster" | "sentinel" | "username" | "tls">>;

/**
 * A redis-cli command line that can be pasted into a shell. Passwords are left out: redis-cli takes one from REDISCLI_AUTH. With Sentinel the shell asks
 * one of them where the primary is.
 */
export function redisCliLine(redis: Redis, ...args: readonly string[]): string {
  return ["redis-cli", ...connectionArgs(redis), ...args.map(quote)].join(" ");
}

function connectionArgs(redis: Redis): readonly string[] {
  const { tls } = redis;
  const secure = tls !== undefined && (tls.enabled || tls.caFile !== null || tls.certFile !== null || tls.servername !== null);
  const files = [
    ["--cacert", tls?.caFile],
    ["--cert", tls?.certFile],
    ["--key", tls?.keyFile],
    ["--sni", tls?.servername],
  ].flatMap(([name, value]) => (typeof name === "string" && typeof value === "string" ? [name, quote(value)] : []));
  const access = [
    ...(typeof redis.username === "string" ? ["--user", quote(redis.username)] : []),
    ...(secure && !redis.url?.startsWith("rediss:") ? ["--tls"] : []),
    ...files,
  ];
  switch (redisTopology(redis)) {
    case "none":
      return [];
    case "single":
      return [...urlArgs(redis.url), ...access];
    case "cluster":
      return ["-c", ...addressArgs(redis.cluster?.[0] ?? ""), ...access];
    case "sentinel": {
      const ask = ["redis-cli", ...addressArgs(redis.sentinel?.nodes[0] ?? ""), "SENTINEL", "get-master-addr-by-name"];
      const master = `$(${[...ask, quote(redis.sentinel?.name ?? "")].join(" ")}`;
      return ["-h", `${master} | head -1)`, "-p", `${master} | tail -1)`, ...access];
    }
  }
}

function addressArgs(hostPort: string): readonly string[] {
  const colon = hostPort.lastIndexOf(":");
  return ["-h", quote(hostPort.slice(0, colon).replace(/^\[(.*)\]$/, "$1")), "-p", hostPort.slice(colon + 1)];
}

function urlArgs(url: string | null): readonly string[] {
  if (url === null) return [];
  try {
    const parsed = new URL(url);
    parsed.password = "";
    // redis-cli reads "user@" as a password; without one the user goes as well.
    const user = parsed.username;
    parsed.username = "";
    return [...(user === "" ? [] : ["--user", quote(decodeURIComponent(user))]), "-u", quote(parsed.href.replace(/\/$/, ""))];
  } catch {
    return [];
  }
}

function quote(text: string): string {
  return /^[A-Za-z0-9_./:@%+=,-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`;
}
