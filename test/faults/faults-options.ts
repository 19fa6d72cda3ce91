import { parseArgs } from "node:util";
import { type Arrangement, dimensions, kindsIn, plainArrangement, readFixed, seedsPerArrangement } from "./arrangement.ts";
import { type FaultKind, kindsOf, type Topology } from "./fault-schedule.ts";

const topologies: readonly Topology[] = ["single", "sentinel", "cluster"];

export interface FaultsOptions {
  readonly topology: Topology;
  readonly schedules: number;
  readonly seed: number;
  /** Only these; null: all that there can be. */
  readonly only: readonly FaultKind[] | null;
  /** Overrides what seeds draw. */
  readonly fixed: Partial<Arrangement>;
  readonly replicas: number;
  readonly ingesters: number;
  readonly minutes: number;
  readonly keepLogs: boolean;
  readonly json: boolean;
}

const unlimited = 100_000; // minutes

export const defaults = { topology: "single", schedules: 20, seed: 1, replicas: 8, ingesters: 3 } as const;

export function help(): string {
  const rows = Object.entries(dimensions).map(([name, values]) => `  ${name.padEnd(14)}${values.join(", ")}`);
  return `Random failures between real processes, and after each schedule the index against what the replicas hold.

Usage: npm run faults -- [options]

  --schedules N     how many; schedule i has seed + i. Default ${defaults.schedules}
  --seed S          of the first one. Default ${defaults.seed}
  --topology T      of Redis: ${topologies.join(", ")}. Default ${defaults.topology}
  --only KIND,...   only these faults
  --set NAME=VALUE  fixes a part of the arrangement that ${seedsPerArrangement} seeds in a row draw together; may be repeated
  --plain           fixes all of it to the values named first below; --set still counts
  --replicas N      simulated replicas, an even number. Default ${defaults.replicas}
  --ingesters N     that run when all is well. Default ${defaults.ingesters}
  --minutes N       begins no further schedule after this time
  --keep-logs       keeps the logs of every process where a schedule failed, and says where
  --json            one line of JSON on stdout; progress is on stderr either way
  --help

Arrangement:
${rows.join("\n")}

Faults: ${kindsOf("single").join(", ")}
With Sentinel and in a cluster, of those of Redis: ${kindsOf("cluster")
    .filter((kind) => kind.startsWith("redis-"))
    .join(", ")}

Examples:
  npm run faults -- --schedules 100 --seed 1 --json
  npm run faults -- --seed 1034 --schedules 1 --keep-logs            one schedule again
  npm run faults -- --topology cluster --only redis-failover,ingester-kill
  npm run faults -- --set publishers=bind --set keys=content --schedules 30

Exit code: 0 all right, 1 something differed or came late, 2 called wrongly.`;
}

/**
 * Null when help is asked for.
 *
 * @throws TypeError saying what is wrong
 */
export function readOptions(args: readonly string[]): FaultsOptions | null {
  const text = { type: "string" } as const;
  const flag = { type: "boolean", default: false } as const;
  const { values } = parseArgs({
    args: [...args],
    options: {
      topology: text,
      schedules: text,
      seed: text,
      only: text,
      set: { type: "string", multiple: true, default: [] },
      plain: flag,
      replicas: text,
      ingesters: text,
      minutes: text,
      "keep-logs": flag,
      json: flag,
      help: flag,
    },
  });
  if (values.help) return null;
  const whole = (name: "schedules" | "seed" | "replicas" | "ingesters" | "minutes", fallback: number, min: number, max: number): number => {
    const value = values[name] === undefined ? fallback : Number(values[name]);
    if (Number.isSafeInteger(value) && value >= min && value <= max) return value;
    throw new TypeError(`--${name}: got "${values[name]}", expected a whole number from ${min} to ${max}.`);
  };
  const topology = topologies.find((known) => known === (values.topology ?? defaults.topology));
  if (topology === undefined) throw new TypeError(`--topology: got "${values.topology}", expected ${topologies.join(", ")}.`);
  const fixed = { ...(values.plain ? plainArrangement : {}), ...readFixed(values.set) };
  const replicas = whole("replicas", defaults.replicas, 2, 64);
  if (replicas % 2 === 1)
    throw new TypeError(`--replicas: got ${replicas}, expected an even number: they are divided between two processes.`);
  return {
    topology,
    schedules: whole("schedules", defaults.schedules, 1, 1_000_000),
    seed: whole("seed", defaults.seed, 0, 0xffff_ffff),
    only: readKinds(values.only, topology, fixed),
    fixed,
    replicas,
    ingesters: whole("ingesters", defaults.ingesters, 1, 16),
    minutes: whole("minutes", unlimited, 1, unlimited),
    keepLogs: values["keep-logs"],
    json: values.json,
  };
}

/** The command that runs some of the schedules again, alone. */
export function commandFor(options: FaultsOptions, seed: number, schedules: number): string {
  const parts = [`npm run faults -- --seed ${seed} --schedules ${schedules}`];
  if (options.topology !== defaults.topology) parts.push(`--topology ${options.topology}`);
  if (options.only !== null) parts.push(`--only ${options.only.join(",")}`);
  for (const [name, value] of Object.entries(options.fixed)) parts.push(`--set ${name}=${value}`);
  if (options.replicas !== defaults.replicas) parts.push(`--replicas ${options.replicas}`);
  if (options.ingesters !== defaults.ingesters) parts.push(`--ingesters ${options.ingesters}`);
  return parts.join(" ");
}

function readKinds(names: string | undefined, topology: Topology, fixed: Partial<Arrangement>): readonly FaultKind[] | null {
  if (names === undefined) return null;
  const known = kindsIn(topology, { publishers: fixed.publishers ?? "connect" });
  return names.split(",").map((name) => {
    const kind = known.find((candidate) => candidate === name);
    if (kind === undefined) throw new TypeError(`--only: there is no kind "${name}" here; there are ${known.join(", ")}.`);
    return kind;
  });
}
