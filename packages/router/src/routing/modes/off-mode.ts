import type { Contest } from "../contest.ts";
import { type OffPolicyName, type OffPolicySources, rankOff } from "../off-policy.ts";
import { heldNowhere } from "../residency.ts";
import type { Mode } from "./mode.ts";

/** A choice by load alone is rough, and what this router has under way is always counted as it is: most requests need not read. */
const maxLoadAgeMs = 50;

/** Routes without looking at prompts: the baselines. */
export function createOffMode(contest: Contest, policy: OffPolicyName, sources: OffPolicySources): Mode {
  return {
    rule: async (work) => {
      const candidates = contest.candidates(work, await contest.readLoad(work, maxLoadAgeMs), heldNowhere);
      return { mode: "off", reason: policy, ranking: rankOff(policy, candidates, work.tieKey, sources), residency: heldNowhere };
    },
  };
}
