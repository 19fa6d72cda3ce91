import type { Clock } from "@kvatlas/shared/clock";

/** Quiet after which the last batches are checked: long against the pauses between steps, short against the pauses between requests. */
const quietMs = 1_000;
/**
 * Between two checks of one endpoint, so that a replica with a request now and then is not asked after each. A lost batch may stay unknown for as long; an
 * engine that has nothing newer answers with one empty message.
 */
const betweenChecksMs = 2_000;
const firstRetryMs = 1_000;
const maxRetryMs = 30_000;

/** Where a debt is kept, so that it outlives its owner. */
export interface Debts {
  /** First batch that was given up unanswered; null: none. */
  owedFrom: number | null;
}

/**
 * When to ask for a replay that no event asks for.
 *
 * A batch that is lost on the way shows by the number of the next one; the last batch before a pause has no next one, so a stream that falls
 * quiet is asked once what it has published last, and so is an engine that has worked without a batch. A replay that was not answered is asked
 * for again, ever less often. Batches that were given up only because nobody answered are a debt: they may still be there.
 */
export class ReplayAgenda {
  readonly #clock: Clock;
  readonly #debts: Debts;
  #dueAt: number | null;
  #checkedAt = Number.NEGATIVE_INFINITY;
  #retryMs = firstRetryMs;
  /** The engine's counters have moved since a replay was last asked for: what it brings may be of before. */
  #hasWorkedSince = false;

  /** A debt that is there already is due at once. */
  constructor(clock: Clock, debts: Debts) {
    this.#clock = clock;
    this.#debts = debts;
    this.#dueAt = debts.owedFrom === null ? null : clock.monotonic();
  }

  /** Monotonic ms; null while there is nothing to ask. */
  get dueAt(): number | null {
    return this.#dueAt;
  }

  get isDue(): boolean {
    return this.#dueAt !== null && this.#dueAt <= this.#clock.monotonic();
  }

  /** First batch that was given up unanswered; null: none. */
  get owedFrom(): number | null {
    return this.#debts.owedFrom;
  }

  /** A live batch has come. */
  heard(): void {
    // What is to be asked again stays due: a busy stream must not put it off for ever.
    if (this.#retryMs > firstRetryMs) return;
    this.#dueAt = Math.max(this.#clock.monotonic() + quietMs, this.#checkedAt + betweenChecksMs);
  }

  /** The engine's counters have moved: unless a batch comes, it has been lost on the way. */
  worked(): void {
    this.#hasWorkedSince = true;
    this.#dueAt ??= Math.max(this.#clock.monotonic() + quietMs, this.#checkedAt + betweenChecksMs);
  }

  /** A replay is being asked for. */
  asked(): void {
    this.#hasWorkedSince = false;
  }

  answered(): void {
    this.#checkedAt = this.#clock.monotonic();
    this.#retryMs = firstRetryMs;
    this.#dueAt = this.owedFrom === null ? null : this.#checkedAt;
    if (this.#hasWorkedSince) this.worked();
  }

  unanswered(): void {
    this.#dueAt = this.#clock.monotonic() + this.#retryMs;
    this.#retryMs = Math.min(maxRetryMs, this.#retryMs * 2);
  }

  /** Batches from `seq` on were given up because nobody answered. */
  owe(seq: number): void {
    this.#debts.owedFrom = Math.min(seq, this.owedFrom ?? seq);
  }

  /** They are there again, gone for good, or of a run that has ended. */
  settleDebt(): void {
    this.#debts.owedFrom = null;
  }
}
