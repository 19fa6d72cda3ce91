import type { RedisCommand, RedisConnection } from "../redis.ts";
import { redisError } from "../redis-error.ts";
import type { BlockKey, EndpointId } from "../types.ts";
import type { BlockName } from "./block-index.ts";
import { nameField, type SpaceKeys } from "./redis-keys.ts";

/** Names per command: keeps Redis responsive. */
const NAMES_PER_COMMAND = 1_000;

/**
 * Keys of the blocks that one incarnation of an endpoint holds under these names; null for others. A name lies in the shard of its block, which it
 * does not tell: so every shard is asked, in one go.
 */
export async function readBlockNames(
  connection: RedisConnection,
  { space, shards }: { readonly space: SpaceKeys; readonly shards: number },
  { endpoint, incarnation }: { readonly endpoint: EndpointId; readonly incarnation: number },
  names: readonly BlockName[],
): Promise<readonly (BlockKey | null)[]> {
  const fields = names.map(({ hash, group }) => nameField(hash, group));
  const parts: { readonly from: number; readonly command: RedisCommand }[] = [];
  for (let from = 0; from < fields.length; from += NAMES_PER_COMMAND) {
    const slice = fields.slice(from, from + NAMES_PER_COMMAND);
    for (let shard = 0; shard < shards; shard++) {
      parts.push({ from, command: ["hmget", space.names(shard, endpoint, incarnation), ...slice] });
    }
  }
  const keys: (BlockKey | null)[] = names.map(() => null);
  if (parts.length === 0) return keys;
  const replies = await connection.send(parts.map(({ command }) => command));
  for (const [part, reply] of replies.entries()) {
    if (reply instanceof Error) throw redisError(reply);
    const from = parts[part]?.from ?? 0;
    for (const [i, key] of (reply as (string | null)[]).entries()) if (key !== null) keys[from + i] = key as BlockKey;
  }
  return keys;
}
