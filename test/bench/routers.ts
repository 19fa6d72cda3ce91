import { readNumbers, readOptions } from "./arguments.ts";
import { type PolicyName, policies } from "./fleet-model/policy-table.ts";
import { KeyCache, runFleet } from "./fleet-model/run-fleet.ts";
import { traceWorkload } from "./fleet-model/trace-workload.ts";
import { round } from "./statistics.ts";
import { readTrace } from "./traces.ts";

export const usage = `npm run bench -- routers [--trace FILE|generated:conversation|generated:synthetic] [--routers 1,2,4,8] [--capacity 1M] [--load 1] [--requests N]

Hit rate with several routers, which take the requests in turn and see each other's work as it is published, with each request; then with one of
four routers killed and started anew a third into the trace.`;

const restartAtMs = 300_000;

export async function run(args: readonly string[]): Promise<object> {
  const options = readOptions(args, { values: ["trace", "routers", "capacity", "load", "requests"], flags: ["json"] });
  const source = options.value("trace") ?? "generated:conversation";
  const counts = readNumbers(options.value("routers") ?? "1,2,4,8", "--routers");
  const capacityTokens = readNumbers(options.value("capacity") ?? "1M", "--capacity")[0] ?? 0;
  const load = readNumbers(options.value("load") ?? "1", "--load")[0] ?? 1;
  const requests = readNumbers(options.value("requests") ?? "1M", "--requests")[0] ?? 0;
  const workload = traceWorkload(source, readTrace(source).slice(0, requests), load);
  const keyCache = new KeyCache();
  const policy: PolicyName = "default";
  const runs = [];
  for (const routers of counts) {
    const { phases: _, ...outcome } = await runFleet(workload, { replicas: 8, capacityTokens, keyCache, routers, ...policies[policy] });
    runs.push({ routers, ...outcome });
  }
  const hits = runs.map(({ hitPercent }) => hitPercent);
  const restarted = await runFleet(workload, {
    replicas: 8,
    capacityTokens,
    keyCache,
    routers: 4,
    incidents: [{ atMs: restartAtMs / load, what: "restart-router", which: 0 }],
    ...policies[policy],
  });
  return {
    model: "discrete events; production decider, memory index, simulator engine core",
    trace: source,
    runs,
    hitPercentSpread: round(Math.max(...hits) - Math.min(...hits), 2),
    routerRestarted: { hitPercent: restarted.hitPercent, blindAfterRestart: restarted.blindAfterRestart, ttftMeanS: restarted.ttftMeanS },
  };
}
