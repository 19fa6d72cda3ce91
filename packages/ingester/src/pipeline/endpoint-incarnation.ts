import { isKvatlasError, KvatlasError } from "@kvatlas/shared/errors";
import type { BlockIndex, IndexWriter } from "@kvatlas/shared/index/block-index";
import type { Logger } from "@kvatlas/shared/logger";
import type { EndpointRegistry, EndpointState, Lease } from "@kvatlas/shared/registry/endpoint-registry";
import type { ScopeId } from "@kvatlas/shared/types";
import type { IngesterMetrics, ResetCause } from "../metrics.ts";

export interface EndpointIncarnationDeps {
  readonly index: Pick<BlockIndex, "openWriter">;
  readonly registry: Pick<EndpointRegistry, "startIncarnation">;
  readonly logger: Logger;
  readonly metrics: Pick<IngesterMetrics, "resets">;
  /** Repeats a call until the store answers. */
  readonly stored: <T>(call: () => Promise<T>) => Promise<T>;
}

/** More than a failover can lose. */
const maxForgotten = 10_000;

/** Which life of an endpoint's entries its owner writes: announced in the registry first, opened in the index then. */
export class EndpointIncarnation {
  readonly #deps: EndpointIncarnationDeps;
  readonly #lease: Lease;
  #number = 0;
  #from = 0;
  #knownFrom = 0;
  #isPristine = false;
  #isNameless = false;

  constructor(deps: EndpointIncarnationDeps, lease: Lease) {
    this.#deps = deps;
    this.#lease = lease;
  }

  /** 0 before there is one. */
  get number(): number {
    return this.#number;
  }

  /** Sequence number at which it begins. */
  get from(): number {
    return this.#from;
  }

  /** Nothing is known of batches before this one: the first that was taken in, where that happened here. */
  get knownFrom(): number {
    return this.#knownFrom;
  }

  /** It was begun here and nothing has been taken in since. */
  get isPristine(): boolean {
    return this.#isPristine;
  }

  /** A batch is taken in. */
  taken(seq: number): void {
    if (this.#isPristine) this.#knownFrom = seq;
    this.#isPristine = false;
  }

  /** True for the first who asks in an incarnation that was begun here: the index knows no names of its blocks yet. */
  takeNameless(): boolean {
    const isNameless = this.#isNameless;
    this.#isNameless = false;
    return isNameless;
  }

  /** Goes on where a former owner has stopped. */
  resume({ incarnation, from }: Pick<EndpointState, "incarnation" | "from">): void {
    this.#number = incarnation;
    this.#from = from;
    this.#knownFrom = from;
  }

  /**
   * Announces another one. The index goes on with the former until `openWriter`.
   *
   * @throws KVATLAS_INDEX_FENCED the endpoint has a later owner
   */
  async begin(from: number, cause: ResetCause | null): Promise<void> {
    const { metrics, logger } = this.#deps;
    const incarnation = await this.#announced(from);
    if (cause !== null) {
      metrics.resets.inc({ cause });
      logger.info({ incarnation, from, cause }, "the endpoint's cache begins anew");
    }
    this.#isNameless = true;
  }

  /**
   * Opens it in the index. Where the index has seen a later one than the registry remembers (nodes of a cluster that failed over apart), the registry is
   * counted up past it, and the endpoint begins anew at `fresh`.
   */
  async openWriter(scope: ScopeId, fresh: number): Promise<IndexWriter> {
    const { index, stored } = this.#deps;
    const { endpoint, fence } = this.#lease;
    for (let attempt = 0; ; attempt++) {
      try {
        return await stored(() => index.openWriter({ scope, endpoint, incarnation: this.#number, from: this.#from, fence }));
      } catch (error) {
        if (!isKvatlasError(error, "KVATLAS_INDEX_STALE_INCARNATION") || attempt >= maxForgotten) throw error;
        await this.#announced(fresh);
      }
    }
  }

  /** What a write under a lost lease ends with. */
  fenced(): KvatlasError {
    const { endpoint, fence } = this.#lease;
    return new KvatlasError("KVATLAS_INDEX_FENCED", `${endpoint} has a later owner than fence ${fence}: stop writing for it.`);
  }

  async #announced(from: number): Promise<number> {
    const { registry, stored } = this.#deps;
    const number = await stored(() => registry.startIncarnation(this.#lease, from));
    if (number === null) throw this.fenced();
    this.#number = number;
    this.#from = from;
    this.#knownFrom = from;
    this.#isPristine = true;
    return number;
  }
}
