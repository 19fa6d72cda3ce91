import type { Clock } from "@kvatlas/shared/clock";
import { HttpError } from "../request/openai-error.ts";
import { DepartureRate } from "./departure-rate.ts";
import { FairQueue, type Priority } from "./fair-queue.ts";

/** Why a request was refused: no room; it would wait too long; it has waited too long; it gave way to a higher priority; it does not wait at all. */
export type ShedReason = "full" | "would-wait" | "waited" | "displaced" | "sheddable";

export interface AdmissionOptions {
  readonly maxQueued: number;
  readonly maxWaitMs: number;
}

export interface AdmissionDeps {
  readonly clock: Clock;
  readonly onShed: (why: ShedReason, priority: Priority) => void;
  readonly onWaited: (priority: Priority, ms: number) => void;
  /** Requests that may be under way at this moment; at least 1. */
  readonly limit: () => number;
}

export interface Asking {
  readonly priority: Priority;
  readonly tenant: string;
  /** Share of the tenant's turn that the request takes: bytes of its body. */
  readonly cost: number;
}

/** Leave to go on. `release` may be called more than once. */
export interface Permit {
  release(): void;
}

/** One that waits: `permit` is settled by a turn, by a refusal, or by `leave`, which resolves it with null. */
export interface Waiting {
  readonly permit: Promise<Permit | null>;
  leave(): void;
}

interface Waiter {
  readonly since: number;
  readonly priority: Priority;
  readonly admit: (permit: Permit | null) => void;
  readonly refuse: (error: HttpError) => void;
  timer: NodeJS.Timeout | null;
}

/** The longest time that clients are sent away for. */
const maxRetryAfterSeconds = 60;

/** Lets so many requests through at a time, and the others wait or go away, each with the time after which to come again. */
export class Admission {
  readonly #deps: AdmissionDeps;
  readonly #options: AdmissionOptions;
  readonly #queue = new FairQueue<Waiter>();
  readonly #rate = new DepartureRate();
  #underWay = 0;

  constructor(deps: AdmissionDeps, options: AdmissionOptions) {
    this.#deps = deps;
    this.#options = options;
  }

  get underWay(): number {
    return this.#underWay;
  }

  queued(priority: Priority): number {
    return this.#queue.sizeOf(priority);
  }

  /** A permit where there is room, else a place in the queue. @throws HttpError 429 */
  ask(asking: Asking): Permit | Waiting {
    const { priority, tenant, cost } = asking;
    if (this.#underWay < this.#deps.limit() && this.#queue.size === 0) return this.#permit();
    if (priority === "sheddable") throw this.#shed("sheddable", priority, this.#predictedMs(priority, tenant));
    const predicted = this.#predictedMs(priority, tenant);
    if (predicted > this.#options.maxWaitMs) throw this.#shed("would-wait", priority, predicted);
    if (this.#queue.size >= this.#options.maxQueued) this.#makeRoom(priority, predicted);
    return this.#wait(priority, tenant, cost);
  }

  #wait(priority: Priority, tenant: string, cost: number): Waiting {
    let leave: () => void = () => {};
    const permit = new Promise<Permit | null>((resolve, reject) => {
      const waiter: Waiter = { since: this.#deps.clock.monotonic(), priority, admit: resolve, refuse: reject, timer: null };
      const entered = this.#queue.push(priority, tenant, Math.max(1, cost), waiter);
      waiter.timer = setTimeout(() => {
        if (this.#queue.remove(entered)) reject(this.#shed("waited", priority, this.#predictedMs(priority, tenant)));
      }, this.#options.maxWaitMs);
      leave = () => {
        if (!this.#queue.remove(entered)) return;
        if (waiter.timer !== null) clearTimeout(waiter.timer);
        resolve(null);
      };
    });
    return { permit, leave: () => leave() };
  }

  #permit(): Permit {
    this.#underWay += 1;
    let released = false;
    return {
      release: () => {
        if (released) return;
        released = true;
        this.#underWay -= 1;
        this.#rate.departed(this.#deps.clock.monotonic());
        this.#next();
      },
    };
  }

  #next(): void {
    const { clock, onWaited } = this.#deps;
    while (this.#underWay < this.#deps.limit()) {
      const waiter = this.#queue.pop();
      if (waiter === null) return;
      if (waiter.timer !== null) clearTimeout(waiter.timer);
      onWaited(waiter.priority, clock.monotonic() - waiter.since);
      waiter.admit(this.#permit());
    }
  }

  #makeRoom(priority: Priority, predictedMs: number): void {
    const last = this.#queue.lastBelow(priority);
    if (last === null) throw this.#shed("full", priority, predictedMs);
    this.#queue.remove(last);
    if (last.value.timer !== null) clearTimeout(last.value.timer);
    last.value.refuse(this.#shed("displaced", last.priority, predictedMs));
  }

  /** 0 while nothing is known about how fast requests end. */
  #predictedMs(priority: Priority, tenant: string): number {
    const perMs = this.#rate.perMs(this.#deps.clock.monotonic());
    return perMs === 0 ? 0 : (this.#queue.ahead(priority, tenant) + 1) / perMs;
  }

  #shed(why: ShedReason, priority: Priority, predictedMs: number): HttpError {
    this.#deps.onShed(why, priority);
    const retryAfterSeconds = Math.min(maxRetryAfterSeconds, Math.max(1, Math.ceil(predictedMs / 1_000)));
    return new HttpError(429, messages[why], { retryAfterSeconds });
  }
}

const messages: Readonly<Record<ShedReason, string>> = {
  full: "too many requests wait already: try again later.",
  "would-wait": "the request would wait longer than router.overload.maxWaitMs: try again later.",
  waited: "the request has waited for router.overload.maxWaitMs: try again later.",
  displaced: "the request gave way to one that is more critical: try again later.",
  sheddable: "the replicas are busy, and requests for this model do not wait: try again later.",
};
