import { createRedisBlockIndex } from "@kvatlas/shared/index/redis-block-index";
import { createRedisKeys, scopeTag } from "@kvatlas/shared/index/redis-keys";
import type { BlockKey, EndpointId, ScopeId } from "@kvatlas/shared/types";
import type { BenchRedis } from "../bench-redis.ts";
import { createRandom, round } from "../statistics.ts";

const scope = "qwen3-32b.b16.sha256_cbor.s0" as ScopeId;

/** Bytes of Redis (`used_memory`) per block: for the first holder, and for each further one. */
export async function bytesPerBlock(redis: BenchRedis, blocks: number, holders: number): Promise<object> {
  const keys = createRedisKeys("kva");
  const index = createRedisBlockIndex({ connection: redis.connection, keys });
  const random = createRandom(7);
  const hex = () => random().toString(16).padStart(8, "0");
  const chain = Array.from({ length: blocks }, () => (hex() + hex()) as BlockKey);
  const bytes: number[] = [];
  for (let holder = 0; holder < holders; holder += 1) {
    const endpoint = `10.0.0.${holder + 1}:8000` as EndpointId;
    const writer = await index.openWriter({ scope, endpoint, incarnation: holder + 1, from: 0, fence: 1 });
    const before = await redis.usedBytes();
    await writer.apply([{ seq: 0, ops: [{ op: "store", medium: "gpu", group: 0, keys: chain }] }]);
    bytes.push(round(((await redis.usedBytes()) - before) / blocks, 1));
  }
  const [first = 0, ...further] = bytes;
  return {
    blocks,
    keyBytes: keys.space(scopeTag(scope)).block(0, hex().repeat(2) as BlockKey).length,
    firstHolder: first,
    eachFurtherHolder: further,
  };
}
