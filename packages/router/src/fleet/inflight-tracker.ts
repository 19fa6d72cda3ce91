import { type Clock, systemTimers, type Timers } from "@kvatlas/shared/clock";
import type { Component } from "@kvatlas/shared/lifecycle";
import type { Logger } from "@kvatlas/shared/logger";
import type { EndpointRegistry, Inflight } from "@kvatlas/shared/registry/endpoint-registry";
import type { EndpointId } from "@kvatlas/shared/types";
import { within } from "../deadline.ts";

export interface InflightTrackerDeps {
  readonly registry: Pick<EndpointRegistry, "setInflight" | "changeInflight">;
  readonly clock: Clock;
  readonly logger: Logger;
  /** @defaultValue those of the process */
  readonly timers?: Timers;
  /** Runs something at the end of the turn, along with what else is written then. @defaultValue the event loop's turn, alone */
  readonly atTurnEnd?: (run: () => void) => void;
  /** Other routers decide by what is published: they are to know of a request at once. @defaultValue nobody is in a hurry */
  readonly hasReaders?: () => boolean;
}

export interface InflightTrackerOptions {
  readonly routerId: string;
  /** Between two looks at whether there is something to publish that nobody is in a hurry for. @defaultValue 150 */
  readonly publishIntervalMs?: number;
  /** How long the first byte and the end of a request may wait for another request to come, which tells of them as well. @defaultValue 10 */
  readonly patienceMs?: number;
  /** How long a published ledger counts; a router that died stops counting after it. @defaultValue 3000 */
  readonly ttlMs?: number;
}

/** One request on its way. Calls after `end` do nothing. */
export interface InflightEntry {
  /** The answer has begun: what was prefill is decode from here on. */
  firstByte(): void;
  /** The answer grew by this many tokens. */
  produced(tokens: number): void;
  end(): void;
}

interface Sums {
  requests: number;
  prefillTokens: number;
  decodeTokens: number;
}

const nothing: Inflight = { requests: 0, prefillTokens: 0, decodeTokens: 0 };

/**
 * Work this router has sent out and not yet seen finished, by endpoint, and its publication for the other routers: of a request that is sent at once,
 * along with what else is written at the end of the turn; of its first byte and its end a little later; of answers that grow, which changes little, now and
 * then. Bounded by the number of endpoints and open requests; publishing costs a part of one write per request.
 */
export class InflightTracker implements Component {
  readonly name = "inflight-tracker";
  readonly #deps: InflightTrackerDeps;
  readonly #routerId: string;
  readonly #publishIntervalMs: number;
  readonly #patienceMs: number;
  readonly #ttlMs: number;
  readonly #timers: Timers;
  readonly #atTurnEnd: (run: () => void) => void;
  readonly #ledger = new Map<EndpointId, Sums>();
  /** Endpoints of which not all has been published. */
  readonly #changed = new Set<EndpointId>();
  /** A request has been sent since the last publication. */
  #isHurried = false;
  #isAtTurnEnd = false;
  #publishedAt = Number.NEGATIVE_INFINITY;
  #publishedSomething = false;
  #publishing: Promise<void> | null = null;
  #isRunning = false;
  #stopLooking: () => void = () => {};
  #stopWaiting: (() => void) | null = null;
  #closing: Promise<void> | null = null;
  #failing = false;

  constructor(deps: InflightTrackerDeps, options: InflightTrackerOptions) {
    this.#deps = deps;
    this.#routerId = options.routerId;
    this.#publishIntervalMs = options.publishIntervalMs ?? 150;
    this.#patienceMs = options.patienceMs ?? 10;
    this.#ttlMs = options.ttlMs ?? 3_000;
    this.#timers = deps.timers ?? systemTimers;
    this.#atTurnEnd = deps.atTurnEnd ?? ((run) => void setImmediate(run));
  }

  async start(): Promise<void> {
    this.#isRunning = true;
    this.#lookLater();
  }

  /** This router's own share, exact. */
  local(endpoint: EndpointId): Inflight {
    return this.#ledger.get(endpoint) ?? nothing;
  }

  /**
   * Enters a request.
   *
   * @param prefillTokens - uncached prompt tokens
   * @param promptTokens - all prompt tokens: what it occupies once it decodes
   */
  begin(endpoint: EndpointId, prefillTokens: number, promptTokens: number): InflightEntry {
    let sums = this.#ledger.get(endpoint);
    if (sums === undefined) {
      sums = { requests: 0, prefillTokens: 0, decodeTokens: 0 };
      this.#ledger.set(endpoint, sums);
    }
    const at = sums;
    let prefill = prefillTokens;
    let decode = 0;
    let ended = false;
    at.requests += 1;
    at.prefillTokens += prefill;
    this.#sent(endpoint);
    return {
      firstByte: () => {
        if (ended || decode > 0) return;
        at.prefillTokens -= prefill;
        prefill = 0;
        decode = Math.max(1, promptTokens);
        at.decodeTokens += decode;
        this.#moved(endpoint);
      },
      produced: (tokens) => {
        if (ended) return;
        decode += tokens;
        at.decodeTokens += tokens;
        this.#changed.add(endpoint);
      },
      end: () => {
        if (ended) return;
        ended = true;
        at.requests -= 1;
        at.prefillTokens -= prefill;
        at.decodeTokens -= decode;
        if (at.requests === 0 && this.#ledger.get(endpoint) === at) this.#ledger.delete(endpoint);
        this.#moved(endpoint);
      },
    };
  }

  /** Publishes an empty ledger, so that the others need not wait for the ttl. */
  close(): Promise<void> {
    this.#closing ??= (async () => {
      this.#isRunning = false;
      this.#stopLooking();
      this.#stopWaiting?.();
      await this.#publishing;
      this.#ledger.clear();
      if (this.#publishedSomething) await this.#publish(true);
    })();
    return this.#closing;
  }

  /** Everything is written anew: a store that has lost some of it is put right. */
  #lookLater(): void {
    this.#stopLooking = this.#timers.after(this.#publishIntervalMs, () => {
      this.#lookLater();
      const ageMs = this.#deps.clock.monotonic() - this.#publishedAt;
      if (this.#changed.size > 0 || (this.#publishedSomething && ageMs > this.#ttlMs / 2)) this.#publishNow(true);
    });
  }

  #sent(endpoint: EndpointId): void {
    this.#changed.add(endpoint);
    if (!this.#isRead) return;
    this.#isHurried = true;
    this.#publishAtTurnEnd();
  }

  #moved(endpoint: EndpointId): void {
    this.#changed.add(endpoint);
    if (!this.#isRead || this.#stopWaiting !== null) return;
    this.#stopWaiting = this.#timers.after(this.#patienceMs, () => {
      this.#stopWaiting = null;
      if (this.#changed.size > 0) this.#publishNow(false);
    });
  }

  /** While publishing fails it is left to the looks. */
  get #isRead(): boolean {
    return this.#isRunning && !this.#failing && this.#deps.hasReaders?.() === true;
  }

  #publishAtTurnEnd(): void {
    if (this.#isAtTurnEnd || this.#publishing !== null) return;
    this.#isAtTurnEnd = true;
    this.#atTurnEnd(() => {
      this.#isAtTurnEnd = false;
      if (this.#isHurried) this.#publishNow(false);
    });
  }

  #publishNow(isWhole: boolean): void {
    if (this.#publishing !== null || !this.#isRunning) return;
    this.#stopWaiting?.();
    this.#stopWaiting = null;
    this.#publishing = this.#publish(isWhole).finally(() => {
      this.#publishing = null;
      if (this.#isHurried && this.#isRead) this.#publishAtTurnEnd();
    });
  }

  /** Never rejects. */
  async #publish(isWhole: boolean): Promise<void> {
    const { registry, clock, logger } = this.#deps;
    const snapshot = new Map<EndpointId, Inflight>();
    if (isWhole) for (const [endpoint, sums] of this.#ledger) snapshot.set(endpoint, { ...sums });
    else for (const endpoint of this.#changed) snapshot.set(endpoint, { ...(this.#ledger.get(endpoint) ?? nothing) });
    const changed = [...this.#changed];
    this.#changed.clear();
    this.#isHurried = false;
    const startedAt = clock.monotonic();
    try {
      await within(this.#ttlMs, "publishing in-flight work", () =>
        isWhole
          ? registry.setInflight(this.#routerId, snapshot, this.#ttlMs)
          : registry.changeInflight(this.#routerId, snapshot, this.#ttlMs),
      );
      this.#failing = false;
      this.#publishedSomething = snapshot.size > 0;
      if (isWhole) this.#publishedAt = startedAt;
    } catch (error) {
      for (const endpoint of changed) this.#changed.add(endpoint);
      if (!this.#failing) logger.warn({ err: error }, "in-flight work cannot be published: other routers do not see it");
      this.#failing = true;
    }
  }
}
