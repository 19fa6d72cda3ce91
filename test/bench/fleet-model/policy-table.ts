/** What a policy of the benches is in the configuration of a user. */
export interface PolicySetting {
  readonly router?: object;
  readonly prefixCache?: object;
}

/** Policies that the benches compare, by the name in their figures; `default` is the configuration that nobody has touched. */
export const policies = {
  default: {},
  "cost(1)": { router: { missFactor: 1 } },
  weighted: { router: { policy: "weighted" } },
  "max-prefix": { router: { policy: "weighted", scorers: { "queue-scorer": 0, "kv-cache-utilization-scorer": 0 } } },
  estimated: { prefixCache: { mode: "estimated" } },
  "least-request": { prefixCache: { mode: "off" }, router: { offPolicy: "least-request" } },
  "round-robin": { prefixCache: { mode: "off" }, router: { offPolicy: "round-robin" } },
  random: { prefixCache: { mode: "off" }, router: { offPolicy: "random" } },
} as const satisfies Readonly<Record<string, PolicySetting>>;

export type PolicyName = keyof typeof policies;

export const policyNames = Object.keys(policies) as readonly PolicyName[];
