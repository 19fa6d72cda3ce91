import { formatTable } from "../table.ts";
import type { Inspection } from "./inspection.ts";
import type { InspectSource } from "./source.ts";

/** Instances older than this are shown no more; three missed beats of the default. */
const instanceTtlMs = 10_000;

/** Instances, scopes and how many endpoints share each. */
export async function inspectStats({ registry, nowMs, redisCli, keys }: InspectSource): Promise<Inspection> {
  const [scopes, endpoints, ingesters, routers] = await Promise.all([
    registry.scopes(),
    registry.endpoints(),
    registry.instances("ingester", nowMs, instanceTtlMs),
    registry.instances("router", nowMs, instanceTtlMs),
  ]);
  const rows = [...scopes].map(([scope, spec]) => ({
    scope,
    model: spec.model,
    blockSizeTokens: spec.blockSizeTokens,
    scheme: spec.scheme,
    shards: spec.shards,
    endpoints: endpoints.filter(({ meta }) => meta.scope === scope).length,
  }));
  const unlearned = endpoints.filter(({ meta }) => meta.scope === null).length;
  return {
    json: { ingesters, routers, endpoints: endpoints.length, endpointsWithoutScope: unlearned, scopes: rows },
    text: [
      `ingesters  ${ingesters.length}  ${ingesters.join(", ")}`.trimEnd(),
      `routers    ${routers.length}  ${routers.join(", ")}`.trimEnd(),
      `endpoints  ${endpoints.length}${unlearned === 0 ? "" : `, ${unlearned} of them without block size and key scheme yet`}`,
      "",
      formatTable(
        ["scope", "model", "block size", "scheme", "shards", "endpoints"],
        rows.map((row) => [
          row.scope,
          row.model,
          row.blockSizeTokens,
          row.scheme.kind === "native" ? row.scheme.algorithm : "content",
          row.shards,
          row.endpoints,
        ]),
      ),
    ].join("\n"),
    redisCli: [redisCli("HGETALL", keys.scopes), redisCli("ZRANGE", keys.ingesters, "0", "-1", "WITHSCORES"), redisCli("INFO", "memory")],
  };
}
