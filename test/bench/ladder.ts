import { readNames, readOptions } from "./arguments.ts";
import { ladderWorkload, publishedCapacityTokens, publishedLadder } from "./fleet-model/ladder-workload.ts";
import type { FleetOutcome } from "./fleet-model/outcome.ts";
import { type PolicyName, policies, policyNames } from "./fleet-model/policy-table.ts";
import { type FleetOptions, KeyCache, publishedLatency, runFleet } from "./fleet-model/run-fleet.ts";

export const usage = `npm run bench -- ladder [--policies ${policyNames.join(",")}] [--routers 1] [--short] [--json]

The published ladder in discrete events. --short runs four of its sixteen stages. A line for each run goes to stderr, unless --json is given.`;

/** Output tokens/s, TTFT p90 and mean in seconds, as published for the same workload on 8 replicas of two H100 (llm-d-kv-cache, "73-capacity"). */
export const publishedFigures = {
  precise: { outputTokensPerS: 8_730, ttftP90S: 0.542, ttftMeanS: 0.298 },
  estimated: { outputTokensPerS: 6_944, ttftP90S: 31.083, ttftMeanS: 13.316 },
  random: { outputTokensPerS: 4_429, ttftP90S: 92.551, ttftMeanS: 45.281 },
} as const;

export interface LadderRun extends FleetOutcome {
  readonly policy: PolicyName;
}

export async function run(args: readonly string[]): Promise<object> {
  const options = readOptions(args, { values: ["policies", "routers"], flags: ["json", "short"] });
  const names = readNames(options.value("policies"), policyNames, "--policies");
  const runs = await climb(names, options.has("short"), !options.has("json"), { routers: Number(options.value("routers") ?? 1) });
  return {
    model: "discrete events; production decider, memory index, simulator engine core",
    latency: publishedLatency,
    capacityTokens: publishedCapacityTokens,
    published: publishedFigures,
    runs,
  };
}

/** @param isShort - every fourth stage */
export async function climb(
  names: readonly PolicyName[],
  isShort: boolean,
  isTold: boolean,
  more: Partial<FleetOptions> = {},
): Promise<readonly LadderRun[]> {
  const stages = publishedLadder.stages.filter((_, place) => !isShort || place % 4 === 3);
  const workload = ladderWorkload({ ...publishedLadder, stages });
  const keyCache = new KeyCache();
  const runs: LadderRun[] = [];
  for (const policy of names) {
    const outcome = await runFleet(workload, {
      replicas: 8,
      capacityTokens: publishedCapacityTokens,
      keyCache,
      ...more,
      ...policies[policy],
    });
    runs.push({ policy, ...outcome });
    if (isTold) {
      const { outputTokensPerS, ttftMeanS, ttftP90S, hitPercent, queueMean } = outcome;
      console.error(
        `${policy.padEnd(15)}${outputTokensPerS} tokens/s, TTFT mean ${ttftMeanS} p90 ${ttftP90S} s, hits ${hitPercent} %, queue ${queueMean}`,
      );
    }
  }
  return runs;
}
