import type { RouterQuality } from "@kvatlas/shared/registry/quality-records";
import { formatDuration, formatTable } from "../table.ts";
import type { Inspection } from "./inspection.ts";
import { instanceTtlMs } from "./instance-ttl.ts";
import type { InspectSource } from "./source.ts";

/** How well each router's decisions turned out: what it found, what it passed up, and what the engines said they found. */
export async function inspectQuality({ registry, quality, nowMs, redisCli, keys }: InspectSource): Promise<Inspection> {
  const routers = await registry.instances("router", nowMs, instanceTtlMs);
  const said = await quality.read(routers);
  const rows = [...said].map(([router, sums]) => ({ router, ...sums, ...ratesOf(sums) }));
  return {
    json: { routers: rows },
    text:
      rows.length === 0
        ? `no router has said how its decisions turned out; live routers: ${routers.length}\n`
        : formatTable(
            ["router", "for", "precise", "estimated", "load", "off", "hit", "regret", "compared", "as predicted", "found / predicted"],
            rows.map((row) => [
              row.router,
              formatDuration(row.at - row.since),
              row.precise,
              row.estimated,
              row.load,
              row.off,
              percent(row.hitRate),
              percent(row.regretRate),
              row.compared,
              percent(row.exactRate),
              percent(row.foundRate),
            ]),
          ),
    redisCli: [
      redisCli("ZRANGE", keys.routers, "0", "-1", "WITHSCORES"),
      ...(rows[0] === undefined ? [] : [redisCli("HGETALL", keys.quality(rows[0].router))]),
    ],
  };
}

/** 0 and up; null where there is nothing to divide by. */
function ratesOf(sums: RouterQuality) {
  return {
    /** Part of the prompt tokens that the picked endpoints held. */
    hitRate: ratio(sums.matchedTokens, sums.promptTokens),
    /** Part of the prompt tokens that another endpoint held in addition. */
    regretRate: ratio(sums.regretTokens, sums.promptTokens),
    /** Part of the compared answers in which the engine found exactly what was predicted. */
    exactRate: ratio(sums.exact, sums.compared),
    foundRate: ratio(sums.reportedTokens, sums.predictedTokens),
  };
}

function ratio(part: number, whole: number): number | null {
  return whole === 0 ? null : part / whole;
}

function percent(rate: number | null): string {
  return rate === null ? "?" : `${(100 * rate).toFixed(1)} %`;
}
