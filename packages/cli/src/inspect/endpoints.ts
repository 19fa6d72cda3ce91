import { formatDuration, formatTable } from "../table.ts";
import type { Inspection } from "./inspection.ts";
import { instanceTtlMs } from "./instance-ttl.ts";
import type { InspectSource } from "./source.ts";

/** Every endpoint with its owner, index state, load and findings, and what routers have found wrong with their pools. */
export async function inspectEndpoints({ registry, quality, nowMs, redisCli, keys }: InspectSource): Promise<Inspection> {
  const [endpoints, { loads }, routers] = await Promise.all([
    registry.endpoints(),
    registry.readLoad([]),
    registry.instances("router", nowMs, instanceTtlMs).then((ids) => quality.read(ids)),
  ]);
  const rows = [...endpoints]
    .sort((a, b) => (a.id < b.id ? -1 : 1))
    .map((endpoint) => ({ ...endpoint, heartbeatAgeMs: nowMs - endpoint.heartbeat, load: loads.get(endpoint.id) ?? null }));
  const ofRouters = [...routers].flatMap(([router, said]) => (said.findings ?? []).map((finding) => ({ router, ...finding })));
  const findings = [
    ...rows.flatMap(({ id, meta }) => Object.entries(meta.findings).map(([name, text]) => `${id}: ${name}: ${text}\n`)),
    ...ofRouters.map(({ router, pool, name, text }) => `pool ${pool}: ${name}, says router ${router}: ${text}\n`),
  ];
  const first = rows[0];
  return {
    json: { endpoints: rows, routerFindings: ofRouters },
    text:
      (rows.length === 0
        ? "no endpoints: is an ingester running, and are replicas configured (pools) or dialling it (ingester.bind)?\n"
        : formatTable(
            ["endpoint", "pool", "model", "scope", "incarnation", "owner", "ready", "last seen", "waiting", "running", "kv usage"],
            rows.map(({ id, meta, state, heartbeatAgeMs, load }) => [
              id,
              meta.pool,
              meta.model,
              meta.scope ?? "not learned yet",
              state.incarnation,
              state.owner ?? "none",
              meta.ready ? "yes" : "no",
              `${formatDuration(heartbeatAgeMs)} ago`,
              load?.waiting ?? "?",
              load?.running ?? "?",
              load === null ? "?" : `${(load.kvUsage * 100).toFixed(1)} %`,
            ]),
          )) + (findings.length === 0 ? "" : `\nfindings\n${findings.join("")}`),
    redisCli: [
      redisCli("ZRANGE", keys.endpoints, "0", "-1", "WITHSCORES"),
      ...(first === undefined ? [] : [redisCli("HGETALL", keys.meta(first.id))]),
    ],
  };
}
