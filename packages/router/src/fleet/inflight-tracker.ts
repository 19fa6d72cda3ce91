import type { Clock } from "@kvatlas/shared/clock";
import type { Component } from "@kvatlas/shared/lifecycle";
import type { Logger } from "@kvatlas/shared/logger";
import type { EndpointRegistry, Inflight } from "@kvatlas/shared/registry/endpoint-registry";
import type { EndpointId } from "@kvatlas/shared/types";
import { within } from "../deadline.ts";

export interface InflightTrackerDeps {
  readonly registry: Pick<EndpointRegistry, "setInflight">;
  readonly clock: Clock;
  readonly logger: Logger;
}

export interface InflightTrackerOptions {
  readonly routerId: string;
  /** Between two looks at whether there is something to publish. @defaultValue 150 */
  readonly publishIntervalMs?: number;
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
 * Work this router has sent out and not yet seen finished, by endpoint, and its publication for the other routers.
 * Bounded by the number of endpoints and open requests; publishing costs one command per interval in which something changed.
 */
export class InflightTracker implements Component {
  readonly name = "inflight-tracker";
  readonly #deps: InflightTrackerDeps;
  readonly #routerId: string;
  readonly #publishIntervalMs: number;
  readonly #ttlMs: number;
  readonly #ledger = new Map<EndpointId, Sums>();
  #dirty = false;
  #publishedAt = Number.NEGATIVE_INFINITY;
  #publishedSomething = false;
  #publishing: Promise<void> | null = null;
  #timer: NodeJS.Timeout | null = null;
  #closing: Promise<void> | null = null;
  #failing = false;

  constructor(deps: InflightTrackerDeps, options: InflightTrackerOptions) {
    this.#deps = deps;
    this.#routerId = options.routerId;
    this.#publishIntervalMs = options.publishIntervalMs ?? 150;
    this.#ttlMs = options.ttlMs ?? 3_000;
  }

  async start(): Promise<void> {
    this.#timer = setInterval(() => void this.#publishIfNeeded(), this.#publishIntervalMs);
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
    this.#dirty = true;
    return {
      firstByte: () => {
        if (ended || decode > 0) return;
        at.prefillTokens -= prefill;
        prefill = 0;
        decode = Math.max(1, promptTokens);
        at.decodeTokens += decode;
        this.#dirty = true;
      },
      produced: (tokens) => {
        if (ended) return;
        decode += tokens;
        at.decodeTokens += tokens;
        this.#dirty = true;
      },
      end: () => {
        if (ended) return;
        ended = true;
        at.requests -= 1;
        at.prefillTokens -= prefill;
        at.decodeTokens -= decode;
        if (at.requests === 0 && this.#ledger.get(endpoint) === at) this.#ledger.delete(endpoint);
        this.#dirty = true;
      },
    };
  }

  /** Publishes an empty ledger, so that the others need not wait for the ttl. */
  close(): Promise<void> {
    this.#closing ??= (async () => {
      if (this.#timer !== null) clearInterval(this.#timer);
      await this.#publishing;
      this.#ledger.clear();
      if (this.#publishedSomething) await this.#publish();
    })();
    return this.#closing;
  }

  async #publishIfNeeded(): Promise<void> {
    if (this.#publishing !== null) return;
    const ageMs = this.#deps.clock.monotonic() - this.#publishedAt;
    const keepsAlive = this.#publishedSomething && ageMs > this.#ttlMs / 2;
    if (!this.#dirty && !keepsAlive) return;
    this.#publishing = this.#publish().finally(() => {
      this.#publishing = null;
    });
    await this.#publishing;
  }

  async #publish(): Promise<void> {
    this.#dirty = false;
    const snapshot = new Map<EndpointId, Inflight>();
    for (const [endpoint, sums] of this.#ledger) snapshot.set(endpoint, { ...sums });
    try {
      await within(this.#ttlMs, "publishing in-flight work", () => this.#deps.registry.setInflight(this.#routerId, snapshot, this.#ttlMs));
      this.#publishedAt = this.#deps.clock.monotonic();
      this.#publishedSomething = snapshot.size > 0;
      this.#failing = false;
    } catch (error) {
      this.#dirty = true;
      if (!this.#failing) this.#deps.logger.warn({ err: error }, "in-flight work cannot be published: other routers do not see it");
      this.#failing = true;
    }
  }
}
