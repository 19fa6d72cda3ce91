import { readFileSync } from "node:fs";
import type { ConnectionOptions } from "node:tls";
import { Cluster, Redis, type RedisOptions, type SentinelConnectionOptions, SentinelConnector } from "ioredis";
import type { RedisConfig } from "./config/schema.ts";
import { KvatlasError } from "./errors.ts";
import { redisTopology } from "./redis-topology.ts";

/** Of the library; the form of replies is its default. */
export type ClientOptions = Omit<RedisOptions, "replyMapping">;

/** What of the section `redis` says where Redis is and how to get in. */
export type RedisAccess = Pick<RedisConfig, "url"> &
  Partial<Pick<RedisConfig, "cluster" | "sentinel" | "username" | "password" | "database" | "tls">>;

const FIRST_RECONNECT_MS = 50;
const MAX_RECONNECT_MS = 1_000;

/**
 * Milliseconds before the next attempt to connect: 50, doubling up to a second, of which each client waits a random part between half and all, so
 * that many clients that have lost a server together do not come back together.
 *
 * @param attempt 1 for the first
 * @param random 0 <= value < 1
 */
export function reconnectDelay(attempt: number, maxMs = MAX_RECONNECT_MS, random: () => number = Math.random): number {
  return Math.min(maxMs, FIRST_RECONNECT_MS * 2 ** Math.min(Math.max(attempt, 1) - 1, 10)) * (0.5 + random() / 2);
}

/** A client of one server: that of the URL, or the primary that the Sentinels name, now and after each failover. */
export function createServerClient(access: RedisAccess, options: ClientOptions): Redis {
  const { sentinel, url } = access;
  const all: ClientOptions = { ...options, ...credentialsOf(access), ...tlsOption(access) };
  if (redisTopology(access) !== "sentinel") return new Redis(url ?? "", all);
  const tls = tlsOption(access).tls;
  return new Redis({
    ...all,
    name: sentinel?.name ?? "mymaster",
    sentinels: (sentinel?.nodes ?? []).map(parseHostPort),
    role: "master",
    db: access.database ?? 0,
    // Follows the Sentinels' word, not only a lost connection: a primary that hangs, or lives on cut off from them, keeps its connections.
    failoverDetector: true,
    Connector: PatientSentinelConnector,
    sentinelRetryStrategy: (attempt) => reconnectDelay(attempt),
    ...(typeof sentinel?.username === "string" ? { sentinelUsername: sentinel.username } : {}),
    ...(typeof sentinel?.password === "string" ? { sentinelPassword: sentinel.password } : {}),
    ...(tls === undefined ? {} : { enableTLSForSentinelMode: true, sentinelTLS: tls }),
  });
}

/**
 * ioredis 6.0.0 listens for failovers with the detector of its last connection also while it looks for the primary again. A failover that is announced
 * in that moment ends the client for good: it never connects again. Whoever looks asks the Sentinels anyway, so nobody need listen meanwhile.
 */
class PatientSentinelConnector extends SentinelConnector {
  constructor(options: unknown) {
    super(options as SentinelConnectionOptions);
  }

  override connect(...args: Parameters<SentinelConnector["connect"]>): ReturnType<SentinelConnector["connect"]> {
    const detector = Reflect.get(this, "failoverDetector") as { cleanup(): void } | null | undefined;
    detector?.cleanup();
    return super.connect(...args);
  }
}

/**
 * A client of a cluster.
 *
 * @param options of the connections to its nodes
 */
export function createClusterClient(access: RedisAccess, options: ClientOptions): Cluster {
  const { retryStrategy: _, enableOfflineQueue: __, ...nodeOptions } = options;
  return new Cluster((access.cluster ?? []).map(parseHostPort), {
    clusterRetryStrategy: (attempt) => reconnectDelay(attempt),
    slotsRefreshInterval: SLOTS_REFRESH_MS,
    redisOptions: { ...nodeOptions, ...credentialsOf(access), ...tlsOption(access) },
  });
}

/** Moved slots are noticed when they answer so; this finds nodes that have come back. */
const SLOTS_REFRESH_MS = 2_000;

function credentialsOf({ username, password }: RedisAccess): ClientOptions {
  return {
    ...(typeof username === "string" ? { username } : {}),
    ...(typeof password === "string" ? { password } : {}),
  };
}

/** @throws KVATLAS_CONFIG_INVALID a file cannot be read. */
function tlsOption({ tls }: RedisAccess): { readonly tls?: ConnectionOptions } {
  if (tls === undefined) return {};
  const { enabled, caFile, certFile, keyFile, servername } = tls;
  if (!enabled && caFile === null && certFile === null && servername === null) return {};
  return {
    tls: {
      ...(caFile === null ? {} : { ca: readPem("caFile", caFile) }),
      ...(certFile === null ? {} : { cert: readPem("certFile", certFile) }),
      ...(keyFile === null ? {} : { key: readPem("keyFile", keyFile) }),
      ...(servername === null ? {} : { servername }),
    },
  };
}

function readPem(name: string, path: string): Buffer {
  try {
    return readFileSync(path);
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new KvatlasError("KVATLAS_CONFIG_INVALID", `redis.tls.${name}: cannot read ${path}: ${reason}`, { cause });
  }
}

function parseHostPort(text: string): { host: string; port: number } {
  const colon = text.lastIndexOf(":");
  return { host: text.slice(0, colon).replace(/^\[(.*)\]$/, "$1"), port: Number(text.slice(colon + 1)) };
}
