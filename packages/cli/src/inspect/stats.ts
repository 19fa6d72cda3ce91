import { formatTable } from "../table.ts";
import type { Inspection } from "./inspection.ts";
import type { InspectSource } from "./source.ts";

/** Instances older than this are shown no more; three missed beats of the default. */
const instanceTtlMs = 10_000;

/** Keys looked at, at most: a second or so of a busy Redis' time; larger stores are projected from that many. */
const maxCensusKeys = 200_000;

/** Instances, and of each scope its blocks, entries, bytes and endpoints. Counting scans. */
export async function inspectStats({ index, registry, nowMs, redisCli, keys }: InspectSource): Promise<Inspection> {
  const [scopes, endpoints, ingesters, routers, census] = await Promise.all([
    registry.scopes(),
    registry.endpoints(),
    registry.instances("ingester", nowMs, instanceTtlMs),
    registry.instances("router", nowMs, instanceTtlMs),
    index.census(maxCensusKeys),
  ]);
  const rows = [...scopes].map(([scope, spec]) => {
    const counted = census.scopes.get(scope);
    const holders = [...(counted?.holders ?? [])]
      .map(([endpoint, { live, dead }]) => ({ endpoint, live, dead }))
      .sort((a, b) => b.live - a.live);
    return {
      scope,
      model: spec.model,
      blockSizeTokens: spec.blockSizeTokens,
      scheme: spec.scheme,
      shards: spec.shards,
      blocks: counted?.blocks ?? 0,
      entries: sum(holders.map(({ live }) => live)),
      deadEntries: sum(holders.map(({ dead }) => dead)),
      bytes: counted?.bytes ?? null,
      endpoints: endpoints.filter(({ meta }) => meta.scope === scope).length,
      holders,
    };
  });
  const unlearned = endpoints.filter(({ meta }) => meta.scope === null).length;
  const { isExact, examined, total } = census;
  return {
    json: {
      ingesters,
      routers,
      endpoints: endpoints.length,
      endpointsWithoutScope: unlearned,
      census: { isExact, examined, total },
      scopes: rows,
    },
    text: [
      `ingesters  ${ingesters.length}  ${ingesters.join(", ")}`.trimEnd(),
      `routers    ${routers.length}  ${routers.join(", ")}`.trimEnd(),
      `endpoints  ${endpoints.length}${unlearned === 0 ? "" : `, ${unlearned} of them without block size and key scheme yet`}`,
      "",
      formatTable(
        ["scope", "block size", "scheme", "shards", "endpoints", "blocks", "entries", "dead", "bytes/block"],
        rows.map((row) => [
          row.scope,
          row.blockSizeTokens,
          row.scheme.kind === "native" ? row.scheme.algorithm : "content",
          row.shards,
          row.endpoints,
          row.blocks,
          row.entries,
          row.deadEntries,
          row.bytes === null || row.blocks === 0 ? "?" : Math.round(row.bytes / row.blocks),
        ]),
      ),
      formatTable(
        ["scope", "endpoint", "entries", "dead"],
        rows.flatMap(({ scope, holders }) => holders.map(({ endpoint, live, dead }) => [scope, endpoint, live, dead])),
      ),
      ...(isExact ? [] : [`projected from ${examined} of ${total} keys\n`]),
    ].join("\n"),
    redisCli: [redisCli("HGETALL", keys.scopes), redisCli("ZRANGE", keys.ingesters, "0", "-1", "WITHSCORES"), redisCli("INFO", "memory")],
  };
}

function sum(numbers: readonly number[]): number {
  return numbers.reduce((total, number) => total + number, 0);
}
