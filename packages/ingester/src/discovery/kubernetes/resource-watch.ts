import { setTimeout as sleep } from "node:timers/promises";
import type { Logger } from "@kvatlas/shared/logger";
import { listAt, textAt, valueAt } from "./json-path.ts";
import { reasonOf } from "./kube-access.ts";
import { errorOfStatus, type KubeApi, KubeApiError } from "./kube-api.ts";
import { missingRule, pathOf, type ResourceKind } from "./resource-kinds.ts";

export interface ResourceWatchDeps {
  readonly api: KubeApi;
  readonly logger: Logger;
  /** 0 <= value < 1: spreads what many do at the same moment. */
  readonly random: () => number;
  /** After every change of `items`, `settled` or `problem`. */
  readonly onChange: () => void;
  /** Every request's end. */
  readonly onRequest?: (resource: string, outcome: RequestOutcome) => void;
}

export type RequestOutcome = "ok" | "expired" | "unauthorized" | "forbidden" | "absent" | "failed";

export interface ResourceWatchOptions<T> {
  /** Versions of the same objects, the preferred one first. */
  readonly kinds: readonly [ResourceKind, ...ResourceKind[]] | readonly ResourceKind[];
  readonly namespace: string;
  readonly fieldSelector?: string;
  readonly labelSelector?: string;
  /** What is kept of an object; null for one that does not count. */
  readonly read: (object: unknown) => T | null;
  /** False where one can do without: a kind that is not installed, or that we may not see, is no reason to wait. */
  readonly required: boolean;
  readonly timing?: Partial<WatchTiming>;
}

export interface WatchTiming {
  readonly firstDelayMs: number;
  readonly maxDelayMs: number;
  /** Between looks whether a kind has been installed meanwhile. */
  readonly absentDelayMs: number;
  /** How long the server lets a watch run. */
  readonly watchSeconds: number;
}

const defaultTiming: WatchTiming = { firstDelayMs: 200, maxDelayMs: 30_000, absentDelayMs: 60_000, watchSeconds: 290 };
const pageLimit = 500;
const maxPages = 200;
/** Failures in a row after which what one can do without is done without, and what was there is believed to be gone. */
const patience = 3;

/**
 * The objects of one kind as they are now: a list, then a watch from there on, resumed where it broke off. A version that is too old to be resumed from
 * (410, as an answer or as an event) begins with a list again. What was known last stays while the server is away.
 */
export class ResourceWatch<T> {
  readonly #deps: ResourceWatchDeps;
  readonly #options: ResourceWatchOptions<T>;
  readonly #timing: WatchTiming;
  readonly #abort = new AbortController();
  #items: ReadonlyMap<string, T> = new Map();
  #kind: ResourceKind;
  #version: string | null = null;
  #isSynced = false;
  #isAbsent = false;
  #failures = 0;
  #problem: string | null = null;
  #running: Promise<void> | null = null;

  constructor(deps: ResourceWatchDeps, options: ResourceWatchOptions<T>) {
    const [kind] = options.kinds;
    if (kind === undefined) throw new TypeError("a watch needs a kind");
    this.#deps = deps;
    this.#options = options;
    this.#kind = kind;
    this.#timing = { ...defaultTiming, ...options.timing };
  }

  /** By uid. */
  get items(): ReadonlyMap<string, T> {
    return this.#items;
  }

  /** What is served of the kinds; null when none is. */
  get kind(): ResourceKind | null {
    return this.#isAbsent ? null : this.#kind;
  }

  /** `items` say how things are, or were a moment ago. */
  get settled(): boolean {
    if (this.#isSynced) return true;
    return !this.#options.required && (this.#isAbsent || this.#failures >= patience || this.#problem !== null);
  }

  /** What keeps `items` from being up to date; null when they are. */
  get problem(): string | null {
    return this.#problem;
  }

  start(): void {
    this.#running ??= this.#run();
  }

  async close(): Promise<void> {
    this.#abort.abort();
    await this.#running;
  }

  async #run(): Promise<void> {
    const { signal } = this.#abort;
    while (!signal.aborted) {
      const delayMs = await this.#once().catch((error: unknown) => this.#failed(error));
      if (signal.aborted) return;
      await sleep(delayMs, undefined, { signal }).catch(() => {});
    }
  }

  /** A list if need be, and one watch. Resolves with how long to wait before the next one. */
  async #once(): Promise<number> {
    if (this.#version === null) await this.#list();
    const began = performance.now();
    let isUseful = false;
    try {
      await this.#watch(() => {
        isUseful = true;
      });
    } finally {
      if (isUseful || performance.now() - began >= this.#timing.maxDelayMs) this.#failures = 0;
    }
    // A server that ends every watch at once must not be asked in a tight loop.
    if (!isUseful && performance.now() - began < this.#timing.firstDelayMs) this.#failures += 1;
    return this.#failures === 0 ? 0 : this.#backOff();
  }

  async #list(): Promise<void> {
    const { api } = this.#deps;
    const { namespace, kinds, read } = this.#options;
    for (const [i, kind] of kinds.entries()) {
      try {
        const items = new Map<string, T>();
        let next: string | null = null;
        let version: string | null = null;
        for (let page = 0; page < maxPages; page++) {
          const query = { ...this.#selectors(), limit: String(pageLimit), ...(next === null ? {} : { continue: next }) };
          const answer: unknown = await api.get(pathOf(kind, namespace), query, this.#abort.signal);
          for (const object of listAt(answer, "items")) keep(items, object, read);
          version = textAt(answer, "metadata", "resourceVersion");
          next = textAt(answer, "metadata", "continue");
          if (next === null) break;
        }
        if (version === null) throw new KubeApiError(`the list of ${kind.plural} has no resourceVersion`, null);
        this.#deps.onRequest?.(kind.plural, "ok");
        this.#kind = kind;
        this.#version = version;
        this.#items = items;
        this.#well();
        return;
      } catch (error) {
        const isLast = i === kinds.length - 1;
        if (isLast || !(error instanceof KubeApiError) || error.status !== 404) throw error;
      }
    }
  }

  async #watch(onEvent: () => void): Promise<void> {
    const { api } = this.#deps;
    const { namespace } = this.#options;
    const { watchSeconds } = this.#timing;
    const timeoutSeconds = String(Math.max(1, Math.round(watchSeconds * (0.8 + 0.4 * this.#deps.random()))));
    const query = { ...this.#selectors(), watch: "1", allowWatchBookmarks: "true", resourceVersion: this.#version ?? "", timeoutSeconds };
    const take = (event: unknown): void => {
      this.#apply(event);
      onEvent();
    };
    await api.stream(pathOf(this.#kind, namespace), query, take, this.#abort.signal);
    this.#deps.onRequest?.(this.#kind.plural, "ok");
  }

  #apply(event: unknown): void {
    const type = textAt(event, "type");
    const object = valueAt(event, "object");
    if (type === "ERROR") throw errorOfStatus(object);
    this.#version = textAt(object, "metadata", "resourceVersion") ?? this.#version;
    if (type === "BOOKMARK") {
      if (this.#problem !== null) this.#well();
      return;
    }
    const items = new Map(this.#items);
    if (type === "DELETED") items.delete(textAt(object, "metadata", "uid") ?? "");
    else if (type === "ADDED" || type === "MODIFIED") keep(items, object, this.#options.read);
    else return;
    this.#items = items;
    this.#well();
  }

  #well(): void {
    if (this.#problem !== null) this.#deps.logger.info({ resource: this.#kind.plural }, "objects in the cluster can be seen again");
    this.#isSynced = true;
    this.#isAbsent = false;
    this.#problem = null;
    this.#deps.onChange();
  }

  /** Resolves with how long to wait. */
  async #failed(error: unknown): Promise<number> {
    if (this.#abort.signal.aborted) return 0;
    const status = error instanceof KubeApiError ? error.status : null;
    const retryAfterMs = error instanceof KubeApiError ? error.retryAfterMs : null;
    const { plural } = this.#kind;
    this.#failures += 1;
    if (status === 410) {
      this.#deps.onRequest?.(plural, "expired");
      this.#version = null;
      return this.#backOff();
    }
    // Whatever the server does not like about this watch, a list makes up for.
    if (status !== null && status !== 401) this.#version = null;
    if (status === 404) return this.#absent();
    if (status === 401) {
      this.#deps.onRequest?.(plural, "unauthorized");
      this.#deps.api.renewCredentials();
      // A token that has just expired is no problem to speak of.
      if (this.#failures > 1) this.#report(`the API server does not take our credentials (401) for ${plural}: is the token expired?`);
      return this.#backOff();
    }
    this.#deps.onRequest?.(plural, status === 403 ? "forbidden" : "failed");
    const reason = reasonOf(error);
    const { namespace, required } = this.#options;
    this.#report(
      status === 403
        ? `${plural} may not be seen: ${missingRule(this.#kind, namespace)}${required ? "" : ", or do without"}. The API server says: ${reason}`
        : `${plural}: ${reason}`,
    );
    return Math.max(this.#backOff(), Math.min(retryAfterMs ?? 0, this.#timing.maxDelayMs));
  }

  #absent(): number {
    this.#deps.onRequest?.(this.#kind.plural, "absent");
    const { required } = this.#options;
    // An API server that has just started may not know yet what is installed: one answer is not enough to take away what was there.
    if (this.#items.size > 0 && this.#failures < patience) {
      this.#report(`${this.#kind.plural} are unknown to the API server (404), and were known before; it is asked again`);
      return this.#backOff();
    }
    this.#items = new Map();
    this.#isAbsent = true;
    this.#isSynced = !required;
    this.#problem = required ? `${this.#kind.plural} are unknown to the API server (404)` : null;
    this.#deps.onChange();
    return this.#timing.absentDelayMs * (0.8 + 0.4 * this.#deps.random());
  }

  #report(problem: string): void {
    if (problem !== this.#problem) this.#deps.logger[this.#options.required ? "warn" : "info"]({ resource: this.#kind.plural }, problem);
    this.#problem = problem;
    this.#deps.onChange();
  }

  /** Twice as long with every failure in a row, and never the same for all. */
  #backOff(): number {
    const { firstDelayMs, maxDelayMs } = this.#timing;
    const full = Math.min(maxDelayMs, firstDelayMs * 2 ** Math.min(16, Math.max(0, this.#failures - 1)));
    return full * (0.5 + 0.5 * this.#deps.random());
  }

  #selectors(): Record<string, string> {
    const { fieldSelector, labelSelector } = this.#options;
    return { ...(fieldSelector === undefined ? {} : { fieldSelector }), ...(labelSelector === undefined ? {} : { labelSelector }) };
  }
}

function keep<T>(items: Map<string, T>, object: unknown, read: (object: unknown) => T | null): void {
  const uid = textAt(object, "metadata", "uid");
  if (uid === null) return;
  const item = read(object);
  if (item === null) items.delete(uid);
  else items.set(uid, item);
}
