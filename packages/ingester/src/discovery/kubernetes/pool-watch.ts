import type { KubernetesEndpoints } from "@kvatlas/shared/config/kubernetes-schema";
import type { PoolRecord } from "@kvatlas/shared/registry/pool-record";
import { type PoolFacts, readPoolAlpha, readPoolV1 } from "./inference-objects.ts";
import type { NamespaceObjects } from "./namespace-objects.ts";
import { type PodFacts, readPod, targetsOfPods } from "./pod-targets.ts";
import { podKind, poolKindAlpha, poolKindV1, type ResourceKind } from "./resource-kinds.ts";
import { ResourceWatch, type ResourceWatchDeps, type WatchTiming } from "./resource-watch.ts";

export interface PoolWatchOptions {
  readonly settings: KubernetesEndpoints;
  readonly namespace: string;
  /** What was known before this watch began: stays until it knows better. */
  readonly last: PoolRecord | null;
  /** Of the namespace; null where there is no InferencePool that they could be about. */
  readonly objects: NamespaceObjects | null;
  readonly timing: Partial<WatchTiming>;
}

const defaultPort = 8_000;
const maxTargets = 4_096;
const maxProblems = 16;

/** One configured pool: the InferencePool when it names one, the pods, and what follows from both. */
export class PoolWatch {
  readonly #deps: ResourceWatchDeps;
  readonly #options: PoolWatchOptions;
  readonly #poolWatches: readonly { readonly kind: ResourceKind; readonly watch: ResourceWatch<PoolFacts> }[];
  readonly #closing: Promise<void>[] = [];
  #pods: { readonly labelSelector: string; readonly watch: ResourceWatch<PodFacts> } | null = null;
  #last: PoolRecord | null;
  #isClosed = false;

  constructor(deps: ResourceWatchDeps, options: PoolWatchOptions) {
    this.#deps = deps;
    this.#options = options;
    this.#last = options.last;
    const { inferencePool } = options.settings;
    const watchPool = (kind: ResourceKind, read: (object: unknown) => PoolFacts | null) => ({
      kind,
      watch: new ResourceWatch(
        { ...deps, onChange: () => this.#reconcile() },
        {
          kinds: [kind],
          namespace: options.namespace,
          fieldSelector: `metadata.name=${inferencePool}`,
          read,
          required: false,
          timing: options.timing,
        },
      ),
    });
    // The newer group counts where both have the pool.
    this.#poolWatches = inferencePool === undefined ? [] : [watchPool(poolKindV1, readPoolV1), watchPool(poolKindAlpha, readPoolAlpha)];
  }

  start(): void {
    for (const { watch } of this.#poolWatches) watch.start();
    const { selector } = this.#options.settings;
    if (selector !== undefined) this.#watchPods(selector);
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    await Promise.all([...this.#poolWatches.map(({ watch }) => watch.close()), this.#pods?.watch.close(), ...this.#closing]);
  }

  /** Nothing of it can be seen at the moment. */
  get isBlind(): boolean {
    const watches = [...this.#poolWatches.map(({ watch }) => watch), ...(this.#pods === null ? [] : [this.#pods.watch])];
    return watches.every(({ problem }) => problem !== null);
  }

  /** What there is to say now; null before anything is known. */
  record(nowMs: number): PoolRecord | null {
    const found = this.#found();
    const { settings, namespace, objects } = this.#options;
    const seen = this.#problems();
    const source =
      settings.inferencePool === undefined
        ? `pods ${namespace}: ${settings.selector}`
        : `InferencePool ${namespace}/${settings.inferencePool}${found === null ? "" : ` (${found.kind.group}/${found.kind.version})`}`;
    if (found === null && settings.inferencePool !== undefined) {
      if (!this.#isSurelyMissing()) return this.#asBefore(source, seen, nowMs);
      const problem = `InferencePool ${namespace}/${settings.inferencePool} does not exist: the pool has no replicas until it does.`;
      return this.#keep({ ...nothingKnown, source, exists: false, problems: [problem, ...seen], at: nowMs });
    }
    const pods = this.#pods?.watch;
    if (pods === undefined || !pods.settled || objects?.settled === false) return this.#asBefore(source, seen, nowMs);
    const targetPorts = found === null ? (settings.targetPorts.length > 0 ? settings.targetPorts : [defaultPort]) : found.pool.targetPorts;
    const targets = targetsOfPods(pods.items.values(), {
      targetPorts,
      eventsPort: settings.eventsPort ?? null,
      replayPort: settings.replayPort ?? null,
    });
    const about = found === null || objects === null ? nothingMore : objects.about(found.pool);
    const tooMany = targets.length > maxTargets ? [`${targets.length} replicas; the first ${maxTargets} count.`] : [];
    const noPorts = targetPorts.length === 0 ? ["the InferencePool names no port."] : [];
    return this.#keep({
      source,
      exists: true,
      targets: targets.slice(0, maxTargets),
      prefixCache: about.prefixCache,
      objectives: about.objectives,
      models: about.models,
      problems: [...seen, ...about.problems, ...tooMany, ...noPorts].slice(0, maxProblems),
      at: nowMs,
    });
  }

  #keep(record: PoolRecord): PoolRecord {
    this.#last = record;
    return record;
  }

  #asBefore(source: string, problems: readonly string[], nowMs: number): PoolRecord | null {
    if (this.#last !== null) return { ...this.#last, problems: problems.slice(0, maxProblems), at: nowMs };
    return problems.length === 0 ? null : { ...nothingKnown, source, problems: problems.slice(0, maxProblems), at: nowMs };
  }

  #found(): { readonly kind: ResourceKind; readonly pool: PoolFacts } | null {
    for (const { kind, watch } of this.#poolWatches) {
      for (const pool of watch.items.values()) if (!pool.isLeaving) return { kind, pool };
    }
    return null;
  }

  /** A pool that nobody lets us see may well be there. */
  #isSurelyMissing(): boolean {
    return this.#poolWatches.every(({ watch }) => watch.settled && watch.problem === null);
  }

  #problems(): string[] {
    // Of two groups one is enough: what hides the other is worth a word while the pool has not been found.
    const kind = this.#found()?.kind ?? null;
    const pools = this.#poolWatches.filter((candidate) => kind === null || candidate.kind === kind).map(({ watch }) => watch.problem);
    return [...pools, this.#pods?.watch.problem ?? null, ...(this.#options.objects?.problems ?? [])].filter((problem) => problem !== null);
  }

  #reconcile(): void {
    const found = this.#found();
    if (found !== null) this.#watchPods(found.pool.labelSelector);
    this.#deps.onChange();
  }

  #watchPods(labelSelector: string): void {
    if (this.#isClosed || this.#pods?.labelSelector === labelSelector) return;
    if (this.#pods !== null) this.#closing.push(this.#pods.watch.close());
    const { namespace, timing } = this.#options;
    const watch = new ResourceWatch(this.#deps, { kinds: [podKind], namespace, labelSelector, read: readPod, required: true, timing });
    this.#pods = { labelSelector, watch };
    watch.start();
  }
}

const nothingMore = { prefixCache: null, objectives: [], models: [], problems: [] };

/** Of a pool that nobody has seen yet. */
export const nothingKnown: Omit<PoolRecord, "problems" | "at"> = {
  source: "nothing has been seen yet",
  exists: true,
  targets: [],
  prefixCache: null,
  objectives: [],
  models: [],
};
