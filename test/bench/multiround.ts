import { multiroundWorkload, publishedMultiround } from "./fleet-model/multiround-workload.ts";
import { policies, policyNames } from "./fleet-model/policy-table.ts";
import { KeyCache, runFleet } from "./fleet-model/run-fleet.ts";
import { round } from "./statistics.ts";

/** Replicas and KV cache of a small deployment; everything fits many times over. */
const replicas = 4;
const capacityTokens = 200_000;

/** The multi-round conversation under every policy; TTFT against least-request, where 25 % less are published. */
export async function run(): Promise<object> {
  const workload = multiroundWorkload(publishedMultiround);
  const keyCache = new KeyCache();
  const runs = [];
  for (const policy of policyNames) {
    const { phases: _, ...outcome } = await runFleet(workload, { replicas, capacityTokens, keyCache, ...policies[policy] });
    runs.push({ policy, ...outcome });
  }
  const baseline = runs.find(({ policy }) => policy === "least-request")?.ttftMeanS ?? Number.NaN;
  return {
    model: "discrete events; production decider, memory index, simulator engine core",
    workload: publishedMultiround,
    replicas,
    capacityTokens,
    runs: runs.map((one) => ({ ...one, ttftAgainstLeastRequestPercent: round((100 * one.ttftMeanS) / baseline - 100, 1) })),
  };
}
