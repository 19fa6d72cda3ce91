import type { Registry } from "prom-client";
import { type Clock, systemClock } from "./clock.ts";
import type { RedisConfig } from "./config/schema.ts";
import type { BlockIndex } from "./index/block-index.ts";
import { MemoryBlockIndex } from "./index/memory-block-index.ts";
import { createBlockIndexMetrics, createObservedBlockIndex } from "./index/observed-block-index.ts";
import { createRedisBlockIndex } from "./index/redis-block-index.ts";
import { createRedisKeys } from "./index/redis-keys.ts";
import type { Logger } from "./logger.ts";
import { createRedisConnection, type RedisRole } from "./redis.ts";
import type { RedisErrorCode } from "./redis-error.ts";
import { type ServerMemory, serverMemories } from "./redis-memory.ts";
import { redisTopology, shardsFor } from "./redis-topology.ts";
import { RedisTroubles } from "./redis-troubles.ts";
import type { EndpointRegistry } from "./registry/endpoint-registry.ts";
import type { HousekeepingRecords } from "./registry/housekeeping-records.ts";
import { MemoryEndpointRegistry } from "./registry/memory-endpoint-registry.ts";
import { MemoryHousekeepingRecords } from "./registry/memory-housekeeping-records.ts";
import { MemoryPoolRecords } from "./registry/memory-pool-records.ts";
import { MemoryQualityRecords } from "./registry/memory-quality-records.ts";
import type { PoolRecords } from "./registry/pool-records.ts";
import type { QualityRecords } from "./registry/quality-records.ts";
import { createRedisEndpointRegistry } from "./registry/redis-endpoint-registry.ts";
import { createRedisHousekeepingRecords } from "./registry/redis-housekeeping-records.ts";
import { createRedisPoolRecords } from "./registry/redis-pool-records.ts";
import { createRedisQualityRecords } from "./registry/redis-quality-records.ts";
import { StoreTime } from "./registry/store-time.ts";
import { MemoryRoutingHistory } from "./routing-history/memory-routing-history.ts";
import { createRedisRoutingHistory } from "./routing-history/redis-routing-history.ts";
import type { RoutingHistory } from "./routing-history/routing-history.ts";

/** What a process knows of the store itself. */
export interface StoreState {
  /** What the store has refused lately, a sentence each; empty while all is well. */
  troubles(): readonly string[];
  /** Of every server that holds data; none when it is all in memory. @throws KVATLAS_REDIS_UNAVAILABLE, KVATLAS_REDIS_UNSUITABLE */
  memory(): Promise<readonly ServerMemory[]>;
}

/** Index, registry and records of housekeeping of one process: all in Redis, or all in memory. */
export interface Backend {
  readonly index: BlockIndex;
  readonly registry: EndpointRegistry;
  readonly housekeeping: HousekeepingRecords;
  readonly history: RoutingHistory;
  readonly quality: QualityRecords;
  readonly pools: PoolRecords;
  readonly store: StoreState;
  /** True once the store answers, false when it has not within `timeoutMs`. Nobody needs to wait: clients connect by themselves, again and again. */
  connected(timeoutMs: number): Promise<boolean>;
  close(): Promise<void>;
}

export interface BackendOptions {
  /** Where calls of the index are measured. @defaultValue nowhere */
  readonly metrics?: Registry;
  /** Hears of everything that goes wrong with Redis: see `createRedisMetrics`. @defaultValue nobody */
  readonly onRedisError?: (code: RedisErrorCode) => void;
  /** By which the process tells the time. @defaultValue the system's */
  readonly clock?: Clock;
}

function observed(index: BlockIndex, { metrics }: BackendOptions): BlockIndex {
  return metrics === undefined ? index : createObservedBlockIndex({ index, metrics: createBlockIndexMetrics(metrics) });
}

/** Index and registry of one process that needs no Redis: what it holds is gone with it. */
export function createMemoryBackend(options: BackendOptions = {}): Backend {
  const index = observed(new MemoryBlockIndex(), options);
  const registry = new MemoryEndpointRegistry();
  return {
    index,
    registry,
    housekeeping: new MemoryHousekeepingRecords(),
    history: new MemoryRoutingHistory(),
    quality: new MemoryQualityRecords(),
    pools: new MemoryPoolRecords(),
    store: { troubles: () => [], memory: async () => [] },
    connected: async () => true,
    close: async () => {
      await index.close();
      await registry.close();
    },
  };
}

/**
 * Index and registry in Redis over one connection (and one for changes, once somebody listens). Does not wait for Redis and never rejects because
 * it is away: every call says so until it is there.
 *
 * @throws KVATLAS_CONFIG_INVALID no Redis is configured, or a file of `config.tls` cannot be read.
 */
export function createRedisBackend(config: RedisConfig, role: RedisRole, logger: Logger, options: BackendOptions = {}): Backend {
  const troubles = new RedisTroubles(systemClock);
  const connection = createRedisConnection(config, role, logger, {
    onError: (code) => {
      options.onRedisError?.(code);
      troubles.see(code);
    },
  });
  const keys = createRedisKeys(config.keyPrefix);
  const topology = redisTopology(config);
  const index = observed(createRedisBlockIndex({ connection, keys }, { defaultShards: shardsFor(topology, 1) }), options);
  const shards = async () => shardsFor(topology, (await connection.layout()).nodes.length);
  const clock = options.clock ?? systemClock;
  const time = new StoreTime(clock);
  const registry = createRedisEndpointRegistry({ connection, keys, clock, time }, { shards });
  return {
    index,
    registry,
    housekeeping: createRedisHousekeepingRecords({ connection, keys }),
    history: createRedisRoutingHistory({ connection, keys, time }, { shards: shardsFor(topology, 1) }),
    quality: createRedisQualityRecords({ connection, keys }),
    pools: createRedisPoolRecords({ connection, keys }),
    store: { troubles: () => troubles.sentences(), memory: () => serverMemories(connection) },
    connected: (timeoutMs) => connection.connected(timeoutMs),
    close: async () => {
      await index.close();
      await registry.close();
      await connection.close();
    },
  };
}
