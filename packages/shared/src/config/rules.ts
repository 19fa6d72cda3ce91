import type { KvatlasConfig } from "./schema.ts";

/** What no single field can say: settings that contradict each other, one sentence each. */
export function contradictions(config: KvatlasConfig): readonly string[] {
  const problems: string[] = [];
  reportRepeats(
    config.pools.map((pool, i) => [pool.name, `pools[${i}].name`]),
    (value, where, first) => `${where}: "${value}" is also ${first}; names of pools are unique.`,
    problems,
  );
  reportRepeats(
    config.pools.map((pool, i) => [pool.model, `pools[${i}].model`]),
    (value, where, first) =>
      `${where}: "${value}" is also ${first}; requests for a model go to one pool, so list its replicas in that pool.`,
    problems,
  );
  const replicas = config.pools.flatMap((pool, i) =>
    pool.endpoints.static.map((endpoint, j) => ({ endpoint, where: `pools[${i}].endpoints.static[${j}]` })),
  );
  for (const field of ["address", "events", "replay"] as const) {
    reportRepeats(
      replicas.flatMap(({ endpoint, where }) => (endpoint[field] === undefined ? [] : [[endpoint[field], `${where}.${field}`] as const])),
      (value, where, first) => `${where}: "${value}" is also ${first}; every replica has its own.`,
      problems,
    );
  }
  for (const { endpoint, where } of replicas) {
    if (endpoint.replay !== undefined && endpoint.events === undefined && config.ingester.bind === null) {
      problems.push(
        `${where}.replay: set without events and without ingester.bind; name the address where the replica publishes its events.`,
      );
    }
  }
  for (const [i, pool] of config.pools.entries()) {
    if (pool.tokenizer.source === "local" && pool.tokenizer.path === null) {
      problems.push(`pools[${i}].tokenizer.path: missing; source local needs the directory of the tokenizer.`);
    }
  }
  if (config.ingester.leaseTtlMs < 2 * config.ingester.heartbeatMs) {
    problems.push(
      `ingester.leaseTtlMs: got ${config.ingester.leaseTtlMs}, expected at least twice ingester.heartbeatMs (${config.ingester.heartbeatMs}), so that one late beat loses no endpoint.`,
    );
  }
  return problems;
}

function reportRepeats(
  values: readonly (readonly [value: string, where: string])[],
  message: (value: string, where: string, first: string) => string,
  problems: string[],
): void {
  const first = new Map<string, string>();
  for (const [value, where] of values) {
    const earlier = first.get(value);
    if (earlier === undefined) first.set(value, where);
    else problems.push(message(value, where, earlier));
  }
}
