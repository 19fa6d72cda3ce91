import { readNames, readNumbers, readOptions } from "./arguments.ts";
import { ladderWorkload } from "./fleet-model/ladder-workload.ts";
import { policies, policyNames } from "./fleet-model/policy-table.ts";
import { type FleetOptions, KeyCache, runFleet } from "./fleet-model/run-fleet.ts";
import type { ModelRequest, Workload } from "./fleet-model/workload.ts";

export const usage = `npm run bench -- pressure [--policies default,estimated] [--capacity 120k,80k,56k] [--load 1] [--json]

Prefixes against less and less cache: 48 groups of 3 prompts (6,000 + 400 tokens, answers of 200), 8 requests per second times the load, 4 replicas: a working
set of 346k tokens. Then what a history of routings does not see: traffic that comes past the routers, restarts of replicas and of routers.
A line for each run goes to stderr, unless --json is given; the figures go to stdout as JSON.`;

const replicas = 4;
const groups = 48;

/** What happens beside the requests, by name. */
const situations: Readonly<Record<string, { readonly isPast?: boolean; readonly options?: Partial<FleetOptions> }>> = {
  plain: {},
  "a quarter comes past the routers": { isPast: true },
  "two replicas restart": {
    options: {
      incidents: [
        { atMs: 60_000, what: "restart-replica", which: 0 },
        { atMs: 90_000, what: "restart-replica", which: 2 },
      ],
    },
  },
  "four routers, one restarts": { options: { routers: 4, incidents: [{ atMs: 60_000, what: "restart-router", which: 0 }] } },
};

/** Every policy in every situation at every capacity. */
export async function run(args: readonly string[]): Promise<object> {
  const options = readOptions(args, { values: ["policies", "capacity", "load"], flags: ["json"] });
  const names = readNames(options.value("policies") ?? "default,estimated", policyNames, "--policies");
  const capacities = readNumbers(options.value("capacity") ?? "120k,80k,56k", "--capacity");
  const load = readNumbers(options.value("load") ?? "1", "--load")[0] ?? 1;
  const rate = 8 * load;
  const plain = ladderWorkload({
    groups,
    promptsPerGroup: 3,
    prefixTokens: 6_000,
    questionTokens: 400,
    outputTokens: 200,
    warmUp: [rate, 30],
    stages: [[rate, 120]],
  });
  const keyCache = new KeyCache();
  const runs = [];
  for (const [situation, { isPast, options: more }] of Object.entries(situations)) {
    for (const capacityTokens of capacities) {
      for (const policy of names) {
        const workload = isPast === true ? pastTheRouters(plain) : plain;
        const { phases: _, ...outcome } = await runFleet(workload, { replicas, capacityTokens, keyCache, ...more, ...policies[policy] });
        runs.push({ situation, capacityTokens, policy, ...outcome });
        if (options.has("json")) continue;
        const { ttftMeanS, ttftP90S, hitPercent, mispredictedPercent } = outcome;
        console.error(
          `${situation}, ${capacityTokens / 1_000}k: ${policy} TTFT mean ${ttftMeanS} p90 ${ttftP90S} s, hits ${hitPercent} %, expected wrongly ${mispredictedPercent} %`,
        );
      }
    }
  }
  return { model: "discrete events; production decider, memory index, simulator engine core", replicas, load, runs };
}

function pastTheRouters(workload: Workload): Workload {
  const everyFourth = (request: ModelRequest, place: number): ModelRequest =>
    place % 4 === 0 ? { ...request, bypassesRouters: true } : request;
  return { ...workload, phases: workload.phases.map((phase) => ({ ...phase, requests: phase.requests.map(everyFourth) })) };
}
