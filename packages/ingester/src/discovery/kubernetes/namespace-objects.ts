import type { PoolRecord } from "@kvatlas/shared/registry/pool-record";
import { type ForPool, type ObjectiveFacts, type PolicyFacts, type PoolFacts, readObjective, readPolicy } from "./inference-objects.ts";
import { byAge, type ModelFacts, modelsOf, readModel, readRewrite } from "./model-objects.ts";
import { modelKinds, objectiveKinds, policyKind, type ResourceKind, rewriteKinds } from "./resource-kinds.ts";
import { ResourceWatch, type ResourceWatchDeps, type WatchTiming } from "./resource-watch.ts";

/** Of a namespace, what objects that are not pools say about its pools. Shared by all pools in it; kinds that are not installed are fine. */
export class NamespaceObjects {
  readonly #policies: ResourceWatch<PolicyFacts>;
  readonly #objectives: readonly ResourceWatch<ObjectiveFacts>[];
  readonly #rewrites: readonly ResourceWatch<ModelFacts>[];
  readonly #models: readonly ResourceWatch<ModelFacts>[];

  constructor(deps: ResourceWatchDeps, namespace: string, timing: Partial<WatchTiming>) {
    const watch = <T>(kinds: readonly ResourceKind[], read: (object: unknown) => T | null) =>
      new ResourceWatch(deps, { kinds, namespace, read, required: false, timing });
    this.#policies = watch([policyKind], readPolicy);
    this.#objectives = objectiveKinds.map((kinds) => watch(kinds, readObjective));
    this.#rewrites = rewriteKinds.map((kinds) => watch(kinds, readRewrite));
    this.#models = modelKinds.map((kinds) => watch(kinds, readModel));
  }

  get settled(): boolean {
    return this.#all().every((watch) => watch.settled);
  }

  get problems(): readonly string[] {
    return this.#all().flatMap(({ problem }) => (problem === null ? [] : [problem]));
  }

  start(): void {
    for (const watch of this.#all()) watch.start();
  }

  async close(): Promise<void> {
    await Promise.all(this.#all().map((watch) => watch.close()));
  }

  /** Everything about one pool. */
  about(pool: PoolFacts): Pick<PoolRecord, "prefixCache" | "objectives" | "models"> & { readonly problems: readonly string[] } {
    const isMine = ({ pool: name }: { readonly pool: string }) => name === pool.name;
    // A rewrite is the newer way of saying the same.
    const named = modelsOf([...valuesOf(this.#rewrites).filter(isMine).sort(byAge), ...valuesOf(this.#models).filter(isMine).sort(byAge)]);
    const policies = [...this.#policies.items.values()].filter(isMine).sort((a, b) => (a.name < b.name ? -1 : 1));
    const { prefixCache, problems } = trackingOf(pool, policies);
    const objectives = new Map(
      valuesOf(this.#objectives)
        .filter(isMine)
        .map(({ name, priority }) => [name, priority]),
    );
    return {
      prefixCache,
      objectives: [...objectives].map(([name, priority]) => ({ name, priority })).sort((a, b) => (a.name < b.name ? -1 : 1)),
      models: named.models,
      problems: [...problems, ...named.problems, ...this.#strays()],
    };
  }

  /** Objects that belong to no pool, which every pool of the namespace is told of. */
  #strays(): readonly string[] {
    const stray = (kind: string, objects: readonly ForPool[]) =>
      objects
        .filter(({ pool }) => pool === "")
        .map(({ name }) => `${kind} ${name}: it names no pool (spec.poolRef.name); it is not applied.`);
    return [
      ...stray("InferenceTrafficPolicy", valuesOf([this.#policies])),
      ...stray("InferenceObjective", valuesOf(this.#objectives)),
      ...stray("InferenceModelRewrite", valuesOf(this.#rewrites)),
      ...stray("InferenceModel", valuesOf(this.#models)),
    ];
  }

  #all(): readonly ResourceWatch<unknown>[] {
    return [this.#policies, ...this.#objectives, ...this.#rewrites, ...this.#models];
  }
}

/**
 * How the pool's prefixes are to be tracked: by the policy that names the pool, else by the annotation on it. A policy says more, so it wins; a policy without
 * a mode says nothing about the mode.
 */
export function trackingOf(
  pool: PoolFacts,
  policies: readonly PolicyFacts[],
): { readonly prefixCache: PoolRecord["prefixCache"]; readonly problems: readonly string[] } {
  const problems: string[] = [];
  const [policy, ...further] = policies;
  if (policy !== undefined && further.length > 0)
    problems.push(
      `InferenceTrafficPolicy ${further.map(({ name }) => name).join(", ")}: the pool has one already, ${policy.name}; it counts.`,
    );
  const strategy = pool.routingStrategy;
  const byAnnotation = strategy === null ? null : modeOf(strategy);
  if (strategy !== null && byAnnotation === null)
    problems.push(`annotation routing-strategy: "${strategy}" is unknown, known is PREFIX_CACHE; the configured mode counts.`);
  if (policy !== undefined) {
    const mode = policy.mode === null ? null : modeOf(policy.mode);
    if (policy.mode !== null && mode === null)
      problems.push(`InferenceTrafficPolicy ${policy.name}: mode "${policy.mode}" is unknown, known are tracking and estimate.`);
    const { blockSize, hashSeed, name } = policy;
    return { prefixCache: { mode: mode ?? byAnnotation, blockSize, hashSeed, from: `InferenceTrafficPolicy ${name}` }, problems };
  }
  if (byAnnotation === null) return { prefixCache: null, problems };
  return { prefixCache: { mode: byAnnotation, blockSize: null, hashSeed: null, from: "annotation routing-strategy" }, problems };
}

function modeOf(text: string): "precise" | "estimated" | null {
  switch (text.toLowerCase()) {
    case "tracking":
    case "precise":
      return "precise";
    case "prefix_cache":
    case "estimate":
    case "estimated":
      return "estimated";
    default:
      return null;
  }
}

function valuesOf<T>(watches: readonly ResourceWatch<T>[]): T[] {
  return watches.flatMap((watch) => [...watch.items.values()]);
}
