import { KvatlasError } from "@kvatlas/shared/errors";
import { shardOf } from "@kvatlas/shared/index/redis-keys";
import type { BlockKey } from "@kvatlas/shared/types";
import { formatTable } from "../table.ts";
import type { Inspection } from "./inspection.ts";
import type { InspectSource } from "./source.ts";

/** The holders of one block in every scope; entries of earlier incarnations are shown as dead. */
export async function inspectBlock({ index, registry, keys, redisCli }: InspectSource, key: string): Promise<Inspection> {
  const block = parseBlockKey(key);
  const scopes = await registry.scopes();
  const found = await Promise.all(
    [...scopes].map(async ([scope, { shards, tag }]) => ({ scope, shards, tag, holders: await index.holders(scope, block) })),
  );
  const rows = found.flatMap(({ scope, holders }) =>
    holders.map(({ endpoint, group, incarnation, live, copies }) => [
      endpoint,
      group,
      incarnation,
      live ? "live" : "dead",
      Object.entries(copies)
        .map(([medium, count]) => (count === 1 ? medium : `${medium} x${count}`))
        .join(", "),
      scope,
    ]),
  );
  const shown = found.filter(({ holders }) => holders.length > 0);
  return {
    json: { key: block, scopes: found.map(({ scope, holders }) => ({ scope, holders })) },
    text:
      rows.length === 0 ? `nobody holds ${block}\n` : formatTable(["endpoint", "group", "incarnation", "state", "copies", "scope"], rows),
    redisCli: (shown.length > 0 ? shown : found).map(({ shards, tag }) =>
      redisCli("HGETALL", keys.space(tag).block(shardOf(block, shards), block)),
    ),
  };
}

/** @throws KVATLAS_CLI_USAGE */
function parseBlockKey(text: string): BlockKey {
  if (!/^[0-9a-f]{16}$/.test(text)) {
    throw new KvatlasError(
      "KVATLAS_CLI_USAGE",
      `"${text}" is no block key: expected 16 lower-case hex digits, as "kvatlas inspect prompt" prints them.`,
    );
  }
  return text as BlockKey;
}
