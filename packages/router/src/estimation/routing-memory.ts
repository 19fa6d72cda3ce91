import type { Clock } from "@kvatlas/shared/clock";
import type { Logger } from "@kvatlas/shared/logger";
import { MemoryRoutingHistory } from "@kvatlas/shared/routing-history/memory-routing-history";
import type { RoutedChain, RoutedMatch, Routing, RoutingHistory } from "@kvatlas/shared/routing-history/routing-history";
import type { EndpointId } from "@kvatlas/shared/types";
import { within } from "../deadline.ts";

export interface RoutingMemoryDeps {
  /** Shared by all routers. */
  readonly history: RoutingHistory;
  readonly clock: Clock;
  readonly logger: Logger;
  /** Runs something at the end of the turn, along with what else is written then. @defaultValue the event loop's turn, alone */
  readonly atTurnEnd?: (run: () => void) => void;
  /** Called for each batch of writes: what became of it. */
  readonly onWritten: (outcome: "ok" | "failed" | "dropped", routings: number) => void;
}

export interface RecallOptions {
  /** Routings longer ago do not count. */
  readonly maxAgeMs: number;
  readonly form: "whole" | "sparse";
  readonly timeoutMs: number;
}

/** Keys waiting for one write; further routings are remembered by this router alone. */
const maxQueuedKeys = 20_000;
/** Writes under way at a time. */
const maxWrites = 4;

export type Recalled = readonly ReadonlyMap<EndpointId, RoutedMatch>[];

/**
 * What was sent where: shared by all routers, and by this one also remembered for itself, so that its own requests are known at once and while the
 * store is away. Nobody waits for writes: they go out together at the end of the turn of the event loop, and are dropped when the store is slower
 * than the requests.
 */
export class RoutingMemory {
  readonly #deps: RoutingMemoryDeps;
  readonly #own: MemoryRoutingHistory;
  readonly #queues = new Map<string, { readonly ttlMs: number; readonly isWithdrawal: boolean; readonly routings: Routing[] }>();
  #queuedKeys = 0;
  #writes = 0;
  #scheduled = false;

  constructor(deps: RoutingMemoryDeps) {
    this.#deps = deps;
    this.#own = new MemoryRoutingHistory({ clock: deps.clock });
  }

  /** What this router itself has sent, without waiting. */
  own(chains: readonly RoutedChain[], { maxAgeMs, form }: RecallOptions): Recalled {
    return this.#own.lookupNow(chains, { sinceMs: this.#deps.clock.now() - maxAgeMs, form });
  }

  /** What all routers have sent, as the store knows it. Rejects as `RoutingHistory.lookup` does, and with KVATLAS_DEADLINE_EXCEEDED. */
  shared(chains: readonly RoutedChain[], { maxAgeMs, form, timeoutMs }: RecallOptions): Promise<Recalled> {
    const sinceMs = this.#deps.clock.now() - maxAgeMs;
    return within(timeoutMs, "reading what was sent where", async (signal) =>
      this.#deps.history.lookup(chains, { sinceMs, form, signal: signal() }),
    );
  }

  /** Remembers that these chains go to an endpoint now, and returns the way to take it back. */
  remember(
    chains: readonly RoutedChain[],
    endpoint: EndpointId,
    options: { readonly ttlMs: number; readonly isShared: boolean },
  ): () => void {
    const at = this.#deps.clock.now();
    const routings = chains.map((chain): Routing => ({ chain, endpoint, at }));
    this.#own.recordNow(routings, options.ttlMs);
    if (options.isShared) this.#enqueue(routings, options.ttlMs, false);
    return () => {
      this.#own.withdrawNow(routings);
      if (options.isShared) this.#enqueue(routings, options.ttlMs, true);
    };
  }

  #enqueue(routings: readonly Routing[], ttlMs: number, isWithdrawal: boolean): void {
    const keys = routings.reduce((sum, { chain }) => sum + chain.keys.length, 0);
    if (this.#queuedKeys + keys > maxQueuedKeys) {
      this.#deps.onWritten("dropped", routings.length);
      return;
    }
    this.#queuedKeys += keys;
    const name = `${ttlMs} ${isWithdrawal}`;
    const queue = this.#queues.get(name);
    if (queue === undefined) this.#queues.set(name, { ttlMs, isWithdrawal, routings: [...routings] });
    else queue.routings.push(...routings);
    this.#schedule();
  }

  #schedule(): void {
    if (this.#scheduled || this.#writes >= maxWrites || this.#queues.size === 0) return;
    this.#scheduled = true;
    const atTurnEnd = this.#deps.atTurnEnd ?? setImmediate;
    atTurnEnd(() => {
      this.#scheduled = false;
      const queues = [...this.#queues.values()];
      this.#queues.clear();
      this.#queuedKeys = 0;
      void this.#write(queues);
    });
  }

  async #write(
    queues: readonly { readonly ttlMs: number; readonly isWithdrawal: boolean; readonly routings: readonly Routing[] }[],
  ): Promise<void> {
    const { history, logger, onWritten } = this.#deps;
    this.#writes += 1;
    // What is taken back was written before.
    for (const { ttlMs, isWithdrawal, routings } of [...queues].sort((a, b) => Number(a.isWithdrawal) - Number(b.isWithdrawal))) {
      try {
        await (isWithdrawal ? history.withdraw(routings) : history.record(routings, ttlMs));
        onWritten("ok", routings.length);
      } catch (error) {
        onWritten("failed", routings.length);
        logger.debug({ err: error }, "what was sent where cannot be shared");
      }
    }
    this.#writes -= 1;
    this.#schedule();
  }
}
