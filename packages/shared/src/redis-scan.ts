import type { RedisConnection } from "./redis.ts";
import { redisError } from "./redis-error.ts";

/** One step of a walk over the keys of all servers. */
export interface ScanPage {
  /** Where to go on; null: done. */
  readonly next: string | null;
  readonly keys: readonly string[];
}

/**
 * One SCAN, on one server after the other. Keys that are there throughout are met at least once: when slots or primaries of a cluster change in
 * between, the walk begins anew, because a cursor means nothing to another server.
 *
 * @param cursor "0" to begin, then what the last page answered
 * @param match glob that keys must match
 */
export async function scanPage(connection: RedisConnection, cursor: string, count: number, match?: string): Promise<ScanPage> {
  const { nodes, version } = await connection.layout();
  const at = parseCursor(cursor);
  const isSame = at !== null && at.version === version && at.node < nodes.length;
  const { node, position } = isSame ? at : { node: 0, position: "0" };
  const name = nodes[node];
  if (name === undefined) return { next: null, keys: [] };
  const [page] = await connection.sendTo(name, [["scan", position, ...(match === undefined ? [] : ["MATCH", match]), "COUNT", count]]);
  if (page instanceof Error) throw redisError(page);
  const [next, keys] = page as [string, string[]];
  if (next !== "0") return { next: `${next}@${node}.${version}`, keys };
  return { next: node + 1 < nodes.length ? `0@${node + 1}.${version}` : null, keys };
}

/** `<cursor of the server>@<number of the server>.<version of the layout>` */
function parseCursor(cursor: string): { readonly position: string; readonly node: number; readonly version: string } | null {
  const match = /^(\d+)@(\d+)\.([0-9a-z]+)$/.exec(cursor);
  return match === null ? null : { position: match[1] ?? "0", node: Number(match[2]), version: match[3] ?? "" };
}
