import { readFileSync } from "node:fs";
import { basename } from "node:path";
import { readNames, readNumbers, readOptions, UsageError } from "./arguments.ts";
import { generateTrace, type TraceShapeName, traceShapes } from "./fleet-model/generated-trace.ts";
import type { FleetOutcome } from "./fleet-model/outcome.ts";
import { type PolicyName, policies, policyNames } from "./fleet-model/policy-table.ts";
import { KeyCache, runFleet } from "./fleet-model/run-fleet.ts";
import { idealHitPercent, type TraceLine, traceWorkload } from "./fleet-model/trace-workload.ts";
import { round } from "./statistics.ts";

/*
 * Policies over request traces in discrete events: production decider, keys, ledger and memory index, the simulator's engine core, a model of time.
 */

export const usage = `npm run bench -- traces [--trace FILE|generated:conversation|generated:synthetic] [--capacity 512k,1M,2M] [--load 1,1.4]
                       [--policies ${policyNames.join(",")}] [--replicas 8] [--routers 1] [--from 0] [--requests N] [--json]

FILE is a trace in the Mooncake FAST'25 form, one request a line: {"timestamp", "input_length", "output_length", "hash_ids"}. Without it both
generated ones are run. Capacity is the KV cache of one replica in tokens; load speeds the trace up. --from and --requests cut a slice.
A line for each run goes to stderr, unless --json is given; the figures go to stdout as JSON.`;

export interface TraceRun extends Omit<FleetOutcome, "phases"> {
  readonly trace: string;
  readonly capacityTokens: number;
  readonly load: number;
  readonly policy: PolicyName;
  /** Of what one cache without end would have hit, percent. */
  readonly ofIdealPercent: number;
}

export async function run(args: readonly string[]): Promise<object> {
  const options = readOptions(args, {
    values: ["trace", "capacity", "load", "policies", "replicas", "routers", "from", "requests"],
    flags: ["json"],
  });
  const capacities = readNumbers(options.value("capacity") ?? "512k,1M,2M", "--capacity");
  const loads = readNumbers(options.value("load") ?? "1,1.4", "--load");
  const names = readNames(options.value("policies"), policyNames, "--policies");
  const replicas = readNumbers(options.value("replicas") ?? "8", "--replicas")[0] ?? 8;
  const routers = readNumbers(options.value("routers") ?? "1", "--routers")[0] ?? 1;
  const from =
    options.value("from") === undefined || options.value("from") === "0" ? 0 : (readNumbers(options.value("from") ?? "", "--from")[0] ?? 0);
  const count = readNumbers(options.value("requests") ?? "1M", "--requests")[0] ?? 0;
  const trace = options.value("trace");
  const sources = trace === undefined ? Object.keys(traceShapes).map((name) => `generated:${name}`) : [trace];
  const runs: TraceRun[] = [];
  for (const source of sources) {
    const all = readTrace(source);
    const lines = all.slice(from, from + count);
    if (lines.length === 0) throw new UsageError(`--from: got ${from}, but ${source} has ${all.length} requests.`);
    for (const done of await compareOnTrace(basename(source), lines, { capacities, loads, names, replicas, routers }, !options.has("json")))
      runs.push(done);
  }
  return { model: "discrete events; production decider, memory index, simulator engine core", replicas, routers, runs };
}

export interface Comparison {
  readonly capacities: readonly number[];
  readonly loads: readonly number[];
  readonly names: readonly PolicyName[];
  readonly replicas: number;
  readonly routers?: number;
}

/** Every policy at every capacity and load. */
export async function compareOnTrace(
  name: string,
  lines: readonly TraceLine[],
  comparison: Comparison,
  isTold: boolean,
): Promise<readonly TraceRun[]> {
  const ideal = idealHitPercent(lines);
  const runs: TraceRun[] = [];
  if (isTold) console.error(`${name}: ${lines.length} requests, ideal hit rate ${round(ideal, 2)} %`);
  for (const load of comparison.loads) {
    const workload = traceWorkload(name, lines, load);
    const keyCache = new KeyCache();
    for (const capacityTokens of comparison.capacities) {
      for (const policy of comparison.names) {
        const { phases: _, ...outcome } = await runFleet(workload, {
          replicas: comparison.replicas,
          routers: comparison.routers ?? 1,
          capacityTokens,
          keyCache,
          ...policies[policy],
        });
        const done = {
          trace: name,
          capacityTokens,
          load,
          policy,
          ofIdealPercent: round((100 * outcome.hitPercent) / Math.max(ideal, 1e-9), 1),
          ...outcome,
        };
        runs.push(done);
        if (isTold) console.error(lineOf(done));
      }
    }
  }
  return runs;
}

function lineOf(done: TraceRun): string {
  const where = `${round(done.capacityTokens / 1_000, 0)}k x${done.load}`.padEnd(11);
  const ttft = `TTFT mean ${done.ttftMeanS.toFixed(3)} p90 ${done.ttftP90S.toFixed(3)} s`;
  return `${where}${done.policy.padEnd(15)}${ttft}, hits ${done.hitPercent.toFixed(1)} % (${done.ofIdealPercent} % of ideal), imbalance ${done.imbalance}, queue ${done.queueMean}`;
}

export function readTrace(source: string): readonly TraceLine[] {
  const generated = /^generated:(.*)$/.exec(source)?.[1];
  if (generated !== undefined) {
    if (!Object.hasOwn(traceShapes, generated)) {
      throw new UsageError(
        `--trace: got "${source}", expected a file or one of ${Object.keys(traceShapes)
          .map((name) => `generated:${name}`)
          .join(", ")}.`,
      );
    }
    return generateTrace(traceShapes[generated as TraceShapeName], 1);
  }
  let text: string;
  try {
    text = readFileSync(source, "utf8");
  } catch (error) {
    throw new UsageError(`--trace: ${source} cannot be read (${error instanceof Error ? error.message : String(error)}).`);
  }
  const lines = text
    .split("\n")
    .filter((line) => line.trim() !== "")
    .map((line, i) => parseLine(line, i + 1));
  if (lines.length === 0) throw new UsageError(`--trace: ${source} has no requests.`);
  return lines;
}

function parseLine(line: string, number: number): TraceLine {
  let value: unknown = null;
  try {
    value = JSON.parse(line);
  } catch {
    // Told below, with what is expected.
  }
  if (isTraceLine(value)) return value;
  throw new UsageError(
    `--trace: line ${number} is no request: expected {"timestamp", "input_length", "output_length", "hash_ids"} with an id for each 512 tokens.`,
  );
}

function isTraceLine(value: unknown): value is TraceLine {
  if (typeof value !== "object" || value === null) return false;
  const { timestamp, input_length: input, output_length: output, hash_ids: ids } = value as Readonly<Record<string, unknown>>;
  return (
    typeof timestamp === "number" &&
    typeof input === "number" &&
    input > 0 &&
    typeof output === "number" &&
    Array.isArray(ids) &&
    ids.length === Math.ceil(input / 512) &&
    ids.every((id) => Number.isInteger(id))
  );
}
