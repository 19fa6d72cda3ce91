import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { parse, View } from "vega";
import { compile, type TopLevelSpec } from "vega-lite";
import { readOptions, UsageError } from "./arguments.ts";
import { traceShapes } from "./fleet-model/generated-trace.ts";
import { policyNames } from "./fleet-model/policy-table.ts";
import { climb, type LadderRun } from "./ladder.ts";
import { compareOnTrace, readTrace, type TraceRun } from "./traces.ts";

export const usage = `npm run bench -- charts [--ladder FILE] [--traces FILE] [--short]

Draws docs/charts/ladder.svg and docs/charts/traces.svg. FILE is the JSON that \`npm run bench -- ladder\` or \`-- traces\` printed; without it the bench is
run, which takes minutes. --short runs less of both.`;

const folder = new URL("../../docs/charts/", import.meta.url);

export async function run(args: readonly string[]): Promise<object> {
  const options = readOptions(args, { values: ["ladder", "traces"], flags: ["short"] });
  const isShort = options.has("short");
  const ladder = readRuns<LadderRun>(options.value("ladder"), "--ladder") ?? (await climb(policyNames, isShort, true));
  const traces = readRuns<TraceRun>(options.value("traces"), "--traces") ?? (await runTraces(isShort));
  mkdirSync(folder, { recursive: true });
  const written = [];
  for (const [name, spec] of [
    ["ladder.svg", ladderChart(ladder)],
    ["traces.svg", tracesChart(traces)],
  ] as const) {
    const file = fileURLToPath(new URL(name, folder));
    writeFileSync(file, `${await new View(parse(compile(spec).spec)).toSVG()}\n`);
    written.push(`docs/charts/${name}`);
  }
  return { written };
}

async function runTraces(isShort: boolean): Promise<readonly TraceRun[]> {
  const runs: TraceRun[] = [];
  for (const shape of Object.keys(traceShapes)) {
    const name = `generated:${shape}`;
    const lines = readTrace(name).slice(0, isShort ? 1_000 : undefined);
    const comparison = { capacities: isShort ? [1_000_000] : [512_000, 1_000_000, 2_000_000], loads: [1], names: policyNames, replicas: 8 };
    runs.push(...(await compareOnTrace(name, lines, comparison, true)));
  }
  return runs;
}

function readRuns<Run>(file: string | undefined, what: string): readonly Run[] | null {
  if (file === undefined) return null;
  try {
    const { runs } = JSON.parse(readFileSync(file, "utf8")) as { readonly runs?: readonly Run[] };
    if (Array.isArray(runs)) return runs;
  } catch (error) {
    throw new UsageError(`${what}: ${file} cannot be read (${error instanceof Error ? error.message : String(error)}).`);
  }
  throw new UsageError(`${what}: ${file} has no runs; give the JSON that the bench printed.`);
}

const config = { background: "white", font: "sans-serif", axis: { labelFontSize: 11, titleFontSize: 12 } } as const;
const color = { field: "policy", type: "nominal", sort: [...policyNames], scale: { scheme: "tableau10" }, title: null } as const;

/** Throughput and TTFT over the rate at which requests come. */
function ladderChart(runs: readonly LadderRun[]): TopLevelSpec {
  const values = runs.flatMap(({ policy, phases }) =>
    phases.map(({ name, outputTokensPerS, ttftP90S }) => ({ policy, rate: Number.parseFloat(name), outputTokensPerS, ttftP90S })),
  );
  const x = { field: "rate", type: "quantitative", title: "requests per second" } as const;
  const mark = { type: "line", point: true } as const;
  return {
    $schema: "https://vega.github.io/schema/vega-lite/v6.json",
    config,
    data: { values },
    hconcat: [
      {
        width: 360,
        height: 260,
        mark,
        encoding: { x, y: { field: "outputTokensPerS", type: "quantitative", title: "output tokens per second, 8 replicas" }, color },
      },
      {
        width: 360,
        height: 260,
        mark,
        encoding: {
          x,
          y: { field: "ttftP90S", type: "quantitative", scale: { type: "log" }, title: "time to first token, p90, seconds" },
          color,
        },
      },
    ],
  };
}

/** Mean TTFT of each policy by trace and capacity. */
function tracesChart(runs: readonly TraceRun[]): TopLevelSpec {
  const values = runs.map(({ trace, capacityTokens, load, policy, ttftMeanS, ttftP90S }) => ({
    trace: load === 1 ? trace : `${trace} x${load}`,
    capacity: `${capacityTokens / 1_000}k`,
    policy,
    ttftMeanS,
    ttftP90S,
  }));
  const capacities = [...new Set(runs.map(({ capacityTokens }) => capacityTokens))]
    .sort((a, b) => a - b)
    .map((tokens) => `${tokens / 1_000}k`);
  return {
    $schema: "https://vega.github.io/schema/vega-lite/v6.json",
    config,
    data: { values },
    facet: { field: "trace", type: "nominal", title: null },
    columns: 2,
    spec: {
      width: 360,
      height: 220,
      mark: { type: "point", filled: true, size: 70 },
      encoding: {
        x: {
          field: "capacity",
          type: "nominal",
          sort: capacities,
          title: "KV cache per replica, tokens",
          axis: { labelAngle: 0 },
        },
        xOffset: { field: "policy", type: "nominal", sort: [...policyNames] },
        y: { field: "ttftMeanS", type: "quantitative", scale: { type: "log" }, title: "time to first token, mean, seconds" },
        color,
      },
    },
  };
}
