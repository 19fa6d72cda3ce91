import { effectivePool, type PoolRecord } from "@kvatlas/shared/registry/pool-record";
import { formatDuration, formatTable } from "../table.ts";
import type { Inspection } from "./inspection.ts";
import type { InspectSource } from "./source.ts";

/** What was discovered of each pool, and what follows from it; pools that are configured here without discovery are listed as well. */
export async function inspectPools({ pools, config, nowMs, redisCli, keys }: InspectSource): Promise<Inspection> {
  const [records, leader] = await Promise.all([pools.read(), pools.leader()]);
  const rows = [...new Set([...config.pools.map(({ name }) => name), ...records.keys()])].sort().map((name) => {
    const configured = config.pools.find((pool) => pool.name === name) ?? null;
    const record = records.get(name) ?? null;
    return { pool: name, configured: configured !== null, settings: settingsOf(configured, record), discovered: record };
  });
  const problems = rows.flatMap(({ pool, discovered }) => (discovered?.problems ?? []).map((problem) => `${pool}: ${problem}\n`));
  const ownNames = new Set(config.router.models.map(({ name }) => name));
  const said = rows.flatMap(({ pool, discovered }) => (discovered === null ? [] : saidOf(pool, discovered, ownNames)));
  return {
    json: { discoveredBy: leader, pools: rows },
    text:
      rows.length === 0
        ? "no pools: none is configured here, and none was discovered\n"
        : formatTable(
            ["pool", "source", "there", "replicas ready", "mode", "block size", "hash seed", "written"],
            rows.map(({ pool, settings, discovered }) => [
              pool,
              discovered?.source ?? "configuration",
              discovered === null ? "-" : discovered.exists ? "yes" : "no",
              discovered === null ? "-" : `${discovered.targets.filter(({ ready }) => ready).length} of ${discovered.targets.length}`,
              settings?.mode ?? "not configured here",
              settings?.blockSize ?? "-",
              settings?.hashSeed ?? "-",
              discovered === null ? "-" : `${formatDuration(nowMs - discovered.at)} ago`,
            ]),
          ) +
          (records.size === 0 ? "" : `\ndiscovered by ${leader ?? "nobody at the moment"}\n`) +
          targetTable(rows) +
          section("understood", said) +
          section("problems", problems),
    redisCli: [redisCli("HGETALL", keys.pools), redisCli("GET", keys.poolsLease)],
  };
}

function settingsOf(configured: Parameters<typeof effectivePool>[0] | null, record: PoolRecord | null) {
  if (configured === null) return null;
  const { mode, blockSize, hashSeed } = effectivePool(configured, record).prefixCache;
  return { mode, blockSize, hashSeed, from: record?.prefixCache?.from ?? "configuration" };
}

function targetTable(rows: readonly { readonly pool: string; readonly discovered: PoolRecord | null }[]): string {
  const targets = rows.flatMap(({ pool, discovered }) => (discovered?.targets ?? []).map((target) => ({ pool, ...target })));
  if (targets.length === 0) return "";
  const table = formatTable(
    ["replica", "pool", "pod", "rank", "ready", "role", "engine", "events", "replay"],
    targets.map((target) => [
      target.address,
      target.pool,
      target.pod,
      target.rank,
      target.ready ? "yes" : "no",
      target.role ?? "-",
      target.engine ?? "-",
      target.events ?? "asked, or dials us",
      target.replay ?? "asked",
    ]),
  );
  return `\n${table}`;
}

/** Objects beside the pool, a line each. @param ownNames - names of models that the configuration has itself, which wins */
function saidOf(pool: string, { prefixCache, objectives, models }: PoolRecord, ownNames: ReadonlySet<string>): readonly string[] {
  const tracking =
    prefixCache === null
      ? []
      : [
          `${pool}: ${prefixCache.from}: mode ${prefixCache.mode ?? "not said"}, block size ${prefixCache.blockSize ?? "not said"}, hash seed ${prefixCache.hashSeed ?? "not said"}\n`,
        ];
  return [
    ...tracking,
    ...objectives.map(({ name, priority }) => `${pool}: InferenceObjective ${name}: priority ${priority}\n`),
    ...models.map(
      ({ name, targets, criticality, from }) =>
        `${pool}: ${from}: ${name} -> ${targets.map(({ model, weight }) => `${model} (${weight})`).join(", ")}, ${criticality}${ownNames.has(name) ? "; not applied: router.models has this name" : ""}\n`,
    ),
  ];
}

function section(title: string, lines: readonly string[]): string {
  return lines.length === 0 ? "" : `\n${title}\n${lines.join("")}`;
}
