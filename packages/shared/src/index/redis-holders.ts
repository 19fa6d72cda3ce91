import type { BlockHolder } from "./block-index.ts";
import { parseEntry, parseHolderField, parsePosition } from "./redis-keys.ts";

/** Fields and values of a HASH as the connection answers them. */
export type RedisHash = Readonly<Record<string, string>>;

/**
 * Who holds a block, by the fields of its HASH.
 *
 * @param positions the fields of the shard's `seq`
 */
export function readHolders(entries: RedisHash, positions: RedisHash): readonly BlockHolder[] {
  return Object.entries(entries).flatMap(([field, value]) => {
    const entry = parseEntry(value);
    if (entry === null) return [];
    const holder = parseHolderField(field);
    const live = parsePosition(positions[holder.endpoint] ?? "")?.incarnation === entry.incarnation;
    return [{ ...holder, incarnation: entry.incarnation, live, copies: entry.copies }];
  });
}
