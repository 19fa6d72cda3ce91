import type { ExtrasForm } from "@kvatlas/shared/hashing/key-scheme";
import type { EndpointMeta } from "@kvatlas/shared/registry/endpoint-registry";
import type { CacheGroup, ScopeId } from "@kvatlas/shared/types";
import type { ReplicaTarget } from "../discovery/replica-target.ts";
import { type Health, HealthWatch } from "../load/health-watch.ts";
import type { ReplicaObservation } from "../load/load-scraper.ts";

/** Things an operator should know about an endpoint; the names are what `doctor` and dashboards show. */
export type FindingName =
  | "model"
  | "block-size"
  | "hash-scheme"
  | "scheme-differs"
  | "prefix-caching"
  | "events-lost"
  | "health"
  | "replay"
  | "no-events"
  | "key-mismatch"
  | "reuse-reports"
  | "two-publishers"
  | "undecodable-events";

/** What is found of one run of an engine, and is no longer true of the next. */
const findingsOfRun = ["events-lost", "reuse-reports"] as const satisfies readonly FindingName[];

/** A replica that is slow to answer once or twice is not ready for so long, and nobody needs to look at it. */
const healthGraceMs = 5_000;
/** Longer lists of models are cut in messages. */
const maxNamesInMessage = 5;

/** What is known of one endpoint, from the record of a former owner, its events and its HTTP server; tells what has changed since last described. */
export class EndpointProfile {
  readonly #target: ReplicaTarget;
  readonly #health: HealthWatch;
  readonly #described = new Map<string, string>();
  readonly #findings = new Map<FindingName, string>();
  #loras: Readonly<Record<string, string>>;
  #ready: boolean;
  #algorithmHint: string | null = null;
  scope: ScopeId | null;
  extrasForm: ExtrasForm | null;
  lookaheadTokens: number;
  groups: readonly CacheGroup[];
  processStartSeconds: number | null;
  lastBatch: EndpointMeta["lastBatch"];
  owedFrom: number | null;
  reportsReuse: boolean;
  mediaByAdapter: boolean;

  constructor(target: ReplicaTarget, stored: EndpointMeta | null, options: { readonly hungAfterMs: number }) {
    this.#target = target;
    this.#health = new HealthWatch(target.rank, options);
    this.scope = stored?.scope ?? null;
    this.extrasForm = stored?.extrasForm ?? null;
    this.lookaheadTokens = stored?.lookaheadTokens ?? 0;
    this.groups = stored?.groups ?? [];
    this.processStartSeconds = stored?.processStartSeconds ?? null;
    this.lastBatch = stored?.lastBatch ?? null;
    this.owedFrom = stored?.owedFrom ?? null;
    this.reportsReuse = stored?.reportsReuse ?? false;
    this.mediaByAdapter = stored?.mediaByAdapter ?? false;
    // Nobody sees those batches missing a second time.
    const lost = stored?.findings["events-lost"];
    if (lost !== undefined) this.#findings.set("events-lost", lost);
    this.#loras = stored?.loras ?? {};
    this.#ready = stored?.ready ?? false;
  }

  get loras(): Readonly<Record<string, string>> {
    return this.#loras;
  }

  /** `--prefix-caching-hash-algo` as the engine reports it. */
  get algorithmHint(): string | null {
    return this.#algorithmHint;
  }

  /** What there is to know at the moment. */
  get findingNames(): Iterable<FindingName> {
    return this.#findings.keys();
  }

  /** Records or, with null, withdraws a finding. True when that changed something. */
  find(name: FindingName, message: string | null): boolean {
    if ((this.#findings.get(name) ?? null) === message) return false;
    if (message === null) this.#findings.delete(name);
    else this.#findings.set(name, message);
    return true;
  }

  /** The run of the engine that was looked after is over. */
  forgetRun(): void {
    for (const name of findingsOfRun) this.#findings.delete(name);
    this.lastBatch = null;
    this.mediaByAdapter = false;
  }

  observe(observation: ReplicaObservation): void {
    const health = this.#health.see(observation);
    this.#ready = health.kind === "ok";
    this.find("health", this.#sentenceOf(health));
    const { metrics, models } = observation;
    if (metrics !== null) {
      this.#algorithmHint = metrics.hashAlgorithm ?? this.#algorithmHint;
      this.find(
        "prefix-caching",
        metrics.prefixCachingEnabled === false
          ? "The engine runs without prefix caching: there is nothing to route by. Start it with --enable-prefix-caching."
          : null,
      );
    }
    if (models === null) return;
    this.#loras = models.loras;
    const { model } = this.#target;
    const served = models.names.includes(model) || model in models.loras;
    const names = models.names.slice(0, maxNamesInMessage).join(", ");
    this.find(
      "model",
      served || models.names.length === 0 ? null : `The pool's model is ${model}, the replica serves ${names}. Correct one of the two.`,
    );
  }

  #sentenceOf(health: Health): string | null {
    const { address } = this.#target;
    if (health.kind === "ok") return null;
    if (health.kind === "hung") {
      return `The engine has requests and gets nothing done although http://${address}/health is fine: it hangs. Restart it; requests go to others.`;
    }
    if (health.forMs < healthGraceMs) return null;
    return health.kind === "unreachable"
      ? `Nothing answers at http://${address}. Is the replica up, and the address right?`
      : `http://${address}/health does not answer 200: the engine is starting, or dead.`;
  }

  /** What has been described may be lost: all of it is described again. */
  describeAnew(): void {
    this.#described.clear();
  }

  /** Fields that differ from what was last described; all of them the first time. `commit` once they are written. */
  changes(): { readonly meta: Partial<EndpointMeta>; readonly commit: () => void } {
    const meta: EndpointMeta = {
      address: this.#target.address,
      pool: this.#target.pool.name,
      model: this.#target.model,
      rank: this.#target.rank,
      scope: this.scope,
      extrasForm: this.extrasForm,
      lookaheadTokens: this.lookaheadTokens,
      groups: this.groups,
      loras: this.#loras,
      ready: this.#ready,
      processStartSeconds: this.processStartSeconds,
      findings: Object.fromEntries(this.#findings),
      lastBatch: this.lastBatch ?? null,
      owedFrom: this.owedFrom,
      reportsReuse: this.reportsReuse,
      mediaByAdapter: this.mediaByAdapter,
    };
    const texts = new Map(Object.entries(meta).map(([field, value]) => [field, JSON.stringify(value)]));
    const changed = Object.entries(meta).filter(([field]) => texts.get(field) !== this.#described.get(field));
    return {
      meta: Object.fromEntries(changed),
      commit: () => {
        for (const [field, text] of texts) this.#described.set(field, text);
      },
    };
  }
}
