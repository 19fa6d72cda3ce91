import type { KvatlasConfig } from "@kvatlas/shared/config/schema";
import { KvatlasError } from "@kvatlas/shared/errors";
import type { Component } from "@kvatlas/shared/lifecycle";
import { hasRedis } from "@kvatlas/shared/redis-topology";
import { createPoolEncoder } from "./pool-encoder.ts";
import type { ServiceDeps } from "./run-service.ts";

/* How the command line builds each service. Heavy modules are imported when a service is built, so `kvatlas router` never loads zeromq. */

/** Time the ingester gets for its hand-over: settle, release, leave. */
const ingesterCloseTimeoutMs = 10_000;
/** On top of the drain: admin server, registry, sockets. */
const closeSlackMs = 5_000;

export async function buildIngester({ config, logger, metricsRegistry, backends }: ServiceDeps): Promise<Component> {
  const { createIngester } = await import("@kvatlas/ingester/app");
  const { index, registry, housekeeping, store, pools } = backends.open("background");
  return createIngester({ index, registry, housekeeping, store, pools, logger, metricsRegistry }, config);
}

export async function buildRouter({ config, logger, metricsRegistry, backends }: ServiceDeps): Promise<Component> {
  const { createRouter } = await import("@kvatlas/router/app");
  const { index, registry, history, quality, pools } = backends.open("request");
  return createRouter(
    { index, registry, history, quality, pools, logger, metricsRegistry, createEncoder: await createPoolEncoder(config, logger) },
    config,
  );
}

export function ingesterDeadlineMs(): number {
  return ingesterCloseTimeoutMs + closeSlackMs;
}

export function routerDeadlineMs(config: KvatlasConfig): number {
  return config.router.drainTimeoutMs + closeSlackMs;
}

/** @throws KVATLAS_CONFIG_INVALID: services of separate processes meet in Redis. */
export function requireRedis(config: KvatlasConfig, service: string): void {
  if (hasRedis(config.redis)) return;
  throw new KvatlasError(
    "KVATLAS_CONFIG_INVALID",
    `redis.url: missing; ingester and router meet in Redis, so "kvatlas ${service}" needs it (KVATLAS_REDIS_URL=redis://host:6379). "kvatlas all-in-one" runs both in one process without Redis.`,
  );
}

/** The pools whose requests are routed by load alone need no index. */
export function needsIndex(config: KvatlasConfig): boolean {
  return config.pools.length === 0 || config.pools.some((pool) => pool.prefixCache.mode !== "off");
}
