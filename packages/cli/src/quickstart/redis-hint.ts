import type { RedisConfig } from "@kvatlas/shared/config/schema";
import { createBlockHasher } from "@kvatlas/shared/hashing/block-hasher";
import { createRedisKeys, shardOf } from "@kvatlas/shared/index/redis-keys";
import type { EndpointRegistry } from "@kvatlas/shared/registry/endpoint-registry";
import { redisCliLine } from "../redis-cli.ts";

/** The redis-cli line that shows who holds the last shared block of a prompt; null before any scope is known. */
export async function redisCliForBlock(
  registry: EndpointRegistry,
  redis: RedisConfig,
  model: string,
  prompt: Uint32Array,
  sharedTokens: number,
): Promise<string | null> {
  const found = [...(await registry.scopes())].find(([, spec]) => spec.model === model);
  if (found === undefined) return null;
  const [, { scheme, blockSizeTokens, shards, tag }] = found;
  const { keys } = createBlockHasher({ scheme, blockSizeTokens, model }).chain(prompt);
  const key = keys[Math.max(1, Math.floor(sharedTokens / blockSizeTokens)) - 1];
  if (key === undefined) return null;
  return redisCliLine(redis, "HGETALL", createRedisKeys(redis.keyPrefix).space(tag).block(shardOf(key, shards), key));
}
