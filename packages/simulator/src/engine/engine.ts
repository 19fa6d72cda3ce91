import type { Clock } from "@kvatlas/shared/clock";
import { type LatencyOptions, stepMs } from "./latency-model.ts";
import type { PoolEvent } from "./pool-events.ts";
import { Scheduler, type SchedulerOptions, type StepPlan } from "./scheduler.ts";
import type { Sequence, SequenceSpec } from "./sequence.ts";

/** Where the engine's batches go. */
export interface EventSink {
  publish(events: readonly PoolEvent[]): void;
  readonly isFull: boolean;
  whenRoom(): Promise<void>;
}

/** `sleep` ends requests in good order; the others are a process that goes away. */
export type LossReason = "restart" | "sleep" | "shutdown";

/** Told about one sequence, always outside of scheduler calls. */
export interface SequenceListener {
  /** A token has been sampled; `sequence.status` is `finished` with the last one. */
  onToken(sequence: Sequence): void;
  /** The engine has dropped the sequence. */
  onLost(reason: LossReason): void;
}

/** Told about what happened, for metrics. */
export interface EngineObserver {
  onAdmitted(sequence: Sequence, queuedMs: number): void;
  onFirstToken(sequence: Sequence, sinceArrivalMs: number): void;
  onNextToken(sinceLastTokenMs: number): void;
  onFinished(sequence: Sequence, reason: "stop" | "length" | "abort", sinceArrivalMs: number): void;
  onStep(plan: StepPlan): void;
}

/** Runs a function after a delay in milliseconds; 0 means soon, after pending I/O. Returns what cancels it. */
export type Schedule = (run: () => void, delayMs: number) => () => void;

export const systemSchedule: Schedule = (run, delayMs) => {
  if (delayMs < 1) {
    const immediate = setImmediate(run);
    return () => clearImmediate(immediate);
  }
  const timer = setTimeout(run, delayMs);
  return () => clearTimeout(timer);
};

export interface EngineDeps {
  readonly clock: Clock;
  readonly schedule: Schedule;
  readonly sink: EventSink;
  readonly observer: EngineObserver;
}

export interface EngineOptions {
  readonly scheduler: SchedulerOptions;
  readonly latency: LatencyOptions;
  readonly publishesBeforeStep: boolean;
}

interface Entry {
  readonly listener: SequenceListener;
  readonly arrivedAtMs: number;
  lastTokenAtMs: number;
  isAdmitted: boolean;
}

/** How far behind the wall clock the model clock may fall on a busy machine before it gives up catching up. */
const maxLagMs = 250;

/**
 * One engine core: steps of the scheduler spread over time by the latency model, one event batch per step.
 * Step ends are computed on a model clock, so coarse timers and a busy event loop do not add up.
 */
export class Engine {
  readonly #deps: EngineDeps;
  readonly #options: EngineOptions;
  #scheduler: Scheduler;
  readonly #entries = new Map<Sequence, Entry>();
  #modelClockMs = 0;
  #cancelStep: (() => void) | null = null;
  #isStepping = false;
  #held = new Set<"hang" | "sleep" | "closed">();
  #generation = 0;

  constructor(deps: EngineDeps, options: EngineOptions) {
    this.#deps = deps;
    this.#options = options;
    this.#scheduler = new Scheduler(options.scheduler);
  }

  /** Read-only view for metrics, dumps and tests. */
  get scheduler(): Scheduler {
    return this.#scheduler;
  }

  get running(): number {
    return this.#scheduler.running.length;
  }

  get waiting(): number {
    return this.#scheduler.waiting.length;
  }

  submit(spec: SequenceSpec, listener: SequenceListener): Sequence {
    const now = this.#deps.clock.monotonic();
    const sequence = this.#scheduler.add(spec);
    this.#entries.set(sequence, { listener, arrivedAtMs: now, lastTokenAtMs: now, isAdmitted: false });
    this.#wake();
    return sequence;
  }

  /** Ends a sequence early, frees its blocks; nothing happens when it has ended. */
  abort(sequence: Sequence): void {
    const entry = this.#entries.get(sequence);
    if (entry === undefined || !this.#scheduler.abort(sequence)) return;
    this.#entries.delete(sequence);
    this.#deps.observer.onFinished(sequence, "abort", this.#deps.clock.monotonic() - entry.arrivedAtMs);
  }

  /** Lets go of the blocks that an ended sequence has held for another engine. */
  release(sequence: Sequence): void {
    this.#scheduler.release(sequence);
    // Somebody may be waiting for them.
    this.#wake();
  }

  /** Clears the prefix cache; false while requests run. */
  reset(): boolean {
    return this.#scheduler.reset();
  }

  /** While held the engine accepts requests and computes nothing. */
  hold(reason: "hang" | "sleep", isHeld: boolean): void {
    if (isHeld) this.#held.add(reason);
    else this.#held.delete(reason);
    this.#wake();
  }

  /** Ends every sequence, telling its listener. */
  loseAll(reason: LossReason): void {
    for (const [sequence, { listener }] of [...this.#entries]) {
      this.abort(sequence);
      listener.onLost(reason);
    }
  }

  /** The step under way comes to nothing; what it has done to the pool is told with the next one. An engine falls asleep between two steps. */
  dropStep(): void {
    this.#generation += 1;
    this.#cancelStep?.();
    this.#cancelStep = null;
    this.#isStepping = false;
  }

  /** As a new process: every sequence lost, empty pool, counters at zero. */
  restart(): void {
    this.loseAll("restart");
    this.dropStep();
    this.#held = new Set();
    this.#scheduler = new Scheduler(this.#options.scheduler);
  }

  close(): void {
    this.#held.add("closed");
    this.loseAll("shutdown");
    this.#cancelStep?.();
  }

  #wake(): void {
    if (this.#isStepping || this.#held.size > 0) return;
    this.#isStepping = true;
    // Requests that arrive together start together: an engine empties its input queue before it schedules.
    this.#cancelStep = this.#deps.schedule(() => {
      this.#cancelStep = null;
      this.#modelClockMs = this.#deps.clock.monotonic();
      this.#step();
    }, 0);
  }

  #step(): void {
    this.#isStepping = false;
    if (this.#held.size > 0) return;
    if (this.#deps.sink.isFull) {
      // A full event queue stops the engine loop, as it does in vLLM.
      this.#isStepping = true;
      const generation = this.#generation;
      void this.#deps.sink.whenRoom().then(() => {
        if (generation === this.#generation) this.#step();
      });
      return;
    }
    const plan = this.#scheduler.schedule();
    if (plan === null) return;
    this.#isStepping = true;
    if (this.#options.publishesBeforeStep) this.#publish();
    this.#observeAdmissions(plan);
    const now = this.#deps.clock.monotonic();
    this.#modelClockMs = Math.max(this.#modelClockMs, now - maxLagMs) + stepMs(plan, this.#options.latency);
    this.#cancelStep = this.#deps.schedule(() => this.#finishStep(plan), this.#modelClockMs - now);
  }

  #finishStep(plan: StepPlan): void {
    this.#cancelStep = null;
    if (this.#held.has("hang")) {
      // The step never returns while the engine hangs; it goes on where it was.
      this.#cancelStep = this.#deps.schedule(() => this.#finishStep(plan), 20);
      return;
    }
    const advanced = this.#scheduler.complete(plan);
    if (!this.#options.publishesBeforeStep) this.#publish();
    this.#deps.observer.onStep(plan);
    const now = this.#deps.clock.monotonic();
    for (const sequence of advanced) this.#deliver(sequence, now);
    this.#step();
  }

  #deliver(sequence: Sequence, now: number): void {
    const entry = this.#entries.get(sequence);
    if (entry === undefined) return;
    const { observer } = this.#deps;
    if (sequence.generated === 1) observer.onFirstToken(sequence, now - entry.arrivedAtMs);
    else observer.onNextToken(now - entry.lastTokenAtMs);
    entry.lastTokenAtMs = now;
    if (sequence.status === "finished") {
      this.#entries.delete(sequence);
      observer.onFinished(sequence, sequence.spec.finishReason, now - entry.arrivedAtMs);
    }
    entry.listener.onToken(sequence);
  }

  #observeAdmissions(plan: StepPlan): void {
    const now = this.#deps.clock.monotonic();
    for (const { sequence } of plan.work) {
      const entry = this.#entries.get(sequence);
      if (entry === undefined || entry.isAdmitted) continue;
      entry.isAdmitted = true;
      this.#deps.observer.onAdmitted(sequence, now - entry.arrivedAtMs);
    }
  }

  #publish(): void {
    const events = this.#scheduler.takeEvents();
    if (events.length > 0) this.#deps.sink.publish(events);
  }
}
