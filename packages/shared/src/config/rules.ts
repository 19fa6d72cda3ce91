import type { KubernetesEndpoints } from "./kubernetes-schema.ts";
import type { KvatlasConfig } from "./schema.ts";

/** What no single field can say: settings that contradict each other, one sentence each. */
export function contradictions(config: KvatlasConfig): readonly string[] {
  const problems: string[] = [...redisContradictions(config.redis)];
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
  for (const [i, { endpoints }] of config.pools.entries()) {
    if (endpoints.kubernetes !== undefined)
      problems.push(...kubernetesContradictions(endpoints.kubernetes, `pools[${i}].endpoints.kubernetes`));
  }
  for (const [i, pool] of config.pools.entries()) {
    if (pool.tokenizer.source === "local" && pool.tokenizer.path === null && pool.tokenizer.repository === null) {
      problems.push(
        `pools[${i}].tokenizer.path: missing; source local needs the directory of the tokenizer, or tokenizer.repository, its model on the hub.`,
      );
    }
  }
  reportRepeats(
    config.router.models.map((route, i) => [route.name, `router.models[${i}].name`]),
    (value, where, first) => `${where}: "${value}" is also ${first}; list all of its targets in one place.`,
    problems,
  );
  for (const [i, { targets }] of config.router.models.entries()) {
    if (targets.every(({ weight }) => weight === 0))
      problems.push(`router.models[${i}].targets: all weights are 0; give one of them a weight.`);
  }
  if (config.ingester.leaseTtlMs < 2 * config.ingester.heartbeatMs) {
    problems.push(
      `ingester.leaseTtlMs: got ${config.ingester.leaseTtlMs}, expected at least twice ingester.heartbeatMs (${config.ingester.heartbeatMs}), so that one late beat loses no endpoint.`,
    );
  }
  return problems;
}

function kubernetesContradictions(pods: KubernetesEndpoints, where: string): string[] {
  const problems: string[] = [];
  if ((pods.inferencePool === undefined) === (pods.selector === undefined))
    problems.push(`${where}: ${pods.selector === undefined ? "neither" : "both"} inferencePool and selector are set; name one of them.`);
  if (pods.inferencePool !== undefined && pods.targetPorts.length > 0)
    problems.push(`${where}.targetPorts: set beside inferencePool, whose own targetPorts count; leave them out.`);
  if (new Set(pods.targetPorts).size < pods.targetPorts.length)
    problems.push(`${where}.targetPorts: a port is named twice; each is a replica.`);
  return problems;
}

function redisContradictions(redis: KvatlasConfig["redis"]): string[] {
  const { url, cluster, sentinel, tls } = redis;
  const problems: string[] = [];
  const named = [
    ...(url === null ? [] : ["redis.url"]),
    ...(cluster.length === 0 ? [] : ["redis.cluster"]),
    ...(sentinel.nodes.length === 0 ? [] : ["redis.sentinel"]),
  ];
  if (named.length > 1) problems.push(`${named.join(" and ")}: both set; name one Redis.`);
  if (sentinel.name !== null && sentinel.nodes.length === 0)
    problems.push("redis.sentinel.nodes: missing; name the Sentinels, e.g. [sentinel-0:26379].");
  if (sentinel.name === null && sentinel.nodes.length > 0)
    problems.push("redis.sentinel.name: missing; the name under which the Sentinels watch the primary, often mymaster.");
  if (redis.username !== null && redis.password === null) problems.push("redis.password: missing; redis.username needs one.");
  if (sentinel.username !== null && sentinel.password === null)
    problems.push("redis.sentinel.password: missing; redis.sentinel.username needs one.");
  if ((tls.certFile === null) !== (tls.keyFile === null)) {
    const [missing, given] = tls.certFile === null ? ["certFile", "keyFile"] : ["keyFile", "certFile"];
    problems.push(`redis.tls.${missing}: missing; redis.tls.${given} needs it.`);
  }
  if (redis.database !== null && sentinel.nodes.length === 0)
    problems.push("redis.database: only with redis.sentinel; a URL names its database at the end, a cluster has one.");
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
