import { AUDIT_TASK, type AuditReport, reportFromText } from "@kvatlas/ingester/housekeeping/audit-report";
import { formatDuration, formatTable } from "../table.ts";
import type { Inspection } from "./inspection.ts";
import type { InspectSource } from "./source.ts";

/** Instances older than this are shown no more; three missed beats of the default. */
const instanceTtlMs = 10_000;

/** Keys looked at, at most: a second or so of a busy Redis' time; larger stores are projected from that many. */
const maxCensusKeys = 200_000;

/** Instances; of each scope its blocks, entries and bytes; of each endpoint how far the index is; the last audit. Counting scans. */
export async function inspectStats({ index, registry, housekeeping, nowMs, redisCli, keys }: InspectSource): Promise<Inspection> {
  const [scopes, endpoints, ingesters, routers, census, progress] = await Promise.all([
    registry.scopes(),
    registry.endpoints(),
    registry.instances("ingester", nowMs, instanceTtlMs),
    registry.instances("router", nowMs, instanceTtlMs),
    index.census(maxCensusKeys),
    housekeeping.progress(),
  ]);
  const audit = reportFromText(progress.get(AUDIT_TASK));
  const positions = new Map(await Promise.all([...scopes.keys()].map(async (scope) => [scope, await index.positions(scope)] as const)));
  const rows = [...scopes].map(([scope, spec]) => {
    const counted = census.scopes.get(scope);
    const holders = [...(counted?.holders ?? [])]
      .map(([endpoint, { live, dead }]) => ({
        endpoint,
        live,
        dead,
        applied: positions.get(scope)?.get(endpoint)?.applied ?? null,
        newestBatchAgeMs: ageOf(endpoints.find(({ id, meta }) => id === endpoint && meta.scope === scope)?.meta.lastBatch ?? null, nowMs),
      }))
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
      audit,
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
        ["scope", "endpoint", "entries", "dead", "applied", "newest batch"],
        rows.flatMap(({ scope, holders }) =>
          holders.map(({ endpoint, live, dead, applied, newestBatchAgeMs }) => [
            scope,
            endpoint,
            live,
            dead,
            applied ?? "none",
            newestBatchAgeMs === null ? "?" : `${formatDuration(newestBatchAgeMs)} ago`,
          ]),
        ),
      ),
      audit === null ? "no audit yet\n" : auditLine(audit, nowMs),
      ...(isExact ? [] : [`projected from ${examined} of ${total} keys\n`]),
    ].join("\n"),
    redisCli: [redisCli("HGETALL", keys.scopes), redisCli("ZRANGE", keys.ingesters, "0", "-1", "WITHSCORES"), redisCli("INFO", "memory")],
  };
}

/** By the engine's clock. */
function ageOf(batch: { readonly timestampSeconds: number } | null, nowMs: number): number | null {
  return batch === null ? null : Math.max(0, nowMs - batch.timestampSeconds * 1_000);
}

function auditLine({ at, sampled, compared, findings, rebuilds }: AuditReport, nowMs: number): string {
  const wrong = Object.entries(findings).flatMap(([kind, count]) => (count === 0 ? [] : [`${count} ${kind}`]));
  const found = wrong.length === 0 ? "nothing wrong" : wrong.join(", ");
  const rebuilt = rebuilds.length === 0 ? "" : `; built anew: ${rebuilds.join(", ")}`;
  return `last audit ${formatDuration(nowMs - at)} ago: ${found} in ${sampled} blocks, ${compared} compared with replicas${rebuilt}\n`;
}

function sum(numbers: readonly number[]): number {
  return numbers.reduce((total, number) => total + number, 0);
}
