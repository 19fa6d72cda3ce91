import type { RouterConfig } from "@kvatlas/shared/config/schema";
import { createCostPolicy } from "./cost.ts";
import type { Policy } from "./policy.ts";
import { createWeightedPolicy } from "./weighted.ts";

/** The policy that the configuration names, with its settings. */
export function createPolicy(config: RouterConfig): Policy {
  return config.policy === "weighted" ? createWeightedPolicy(config.scorers, config) : createCostPolicy(config);
}
