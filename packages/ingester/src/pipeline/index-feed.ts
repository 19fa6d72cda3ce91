import type { Clock } from "@kvatlas/shared/clock";
import type { IndexOp, IndexWriter, SequencedOps } from "@kvatlas/shared/index/block-index";
import type { Logger } from "@kvatlas/shared/logger";
import type { IngesterMetrics } from "../metrics.ts";
import { untilStored } from "./store-retry.ts";

export interface IndexFeedDeps {
  readonly clock: Clock;
  readonly logger: Logger;
  readonly metrics: IngesterMetrics;
}

export interface IndexFeedOptions {
  /** Block operations at which a group is written without waiting for more. */
  readonly maxBatchOps: number;
  /** How long a group waits for more batches. */
  readonly flushIntervalMs: number;
  /** Ends the repetition of calls that the store does not answer. */
  readonly signal: AbortSignal;
  /** Every batch up to `seq` is in the index. */
  readonly onWritten: (seq: number) => void;
  /** A write under way has failed: `write` is due at once, and rejects with the reason. */
  readonly onFailure: () => void;
}

/** A batch on its way into the index. */
export interface FedBatch extends SequencedOps {
  /** Monotonic ms; null for a replayed batch. */
  readonly receivedAt: number | null;
}

/** A store that has not been written to for this long is asked whether it still has what it acknowledged. */
const storeCheckMs = 2_000;
/** Batches without operations are small, but not nothing: a group has at most this many batches. */
const maxGroupBatches = 1_000;

/**
 * Groups the batches of one endpoint and writes them in order. One write is under way while the next group fills, so decoding and the round
 * trip overlap; a failed write surfaces at the next call.
 */
export class IndexFeed {
  readonly #deps: IndexFeedDeps;
  readonly #options: IndexFeedOptions;
  readonly #writer: IndexWriter;
  #group: FedBatch[] = [];
  #groupOps = 0;
  #groupSince = 0;
  /** Monotonic ms at which the store last had everything, as far as it said. */
  #confirmedAt: number;
  #writing: Promise<void> | null = null;
  /** `#writing` has not come to its end. */
  #isWriting = false;
  #hasFailed = false;

  constructor(deps: IndexFeedDeps, options: IndexFeedOptions, writer: IndexWriter) {
    this.#deps = deps;
    this.#options = options;
    this.#writer = writer;
    this.#confirmedAt = deps.clock.monotonic();
  }

  get writer(): IndexWriter {
    return this.#writer;
  }

  /** Monotonic ms at which the waiting group is to be written, or the store to be asked where nothing waits. */
  get dueAt(): number {
    if (this.#hasFailed) return Number.NEGATIVE_INFINITY;
    if (this.#group.length > 0) return this.#groupSince + this.#options.flushIntervalMs;
    return this.#confirmedAt + storeCheckMs;
  }

  /**
   * Takes a batch in; returns a promise only when a write had to be begun. A full group waits for the write under way; one that has waited its time
   * does not, and so goes on filling: whoever takes in one batch after another, as a replay does, never gets round to `write`.
   */
  add(batch: FedBatch): Promise<void> | undefined {
    const now = this.#deps.clock.monotonic();
    if (this.#group.length === 0) this.#groupSince = now;
    this.#group.push(batch);
    for (const op of batch.ops) this.#groupOps += op.keys.length;
    const isFull = this.#groupOps >= this.#options.maxBatchOps || this.#group.length >= maxGroupBatches;
    const isOverdue = !this.#isWriting && now >= this.#groupSince + this.#options.flushIntervalMs;
    return isFull || isOverdue ? this.write() : undefined;
  }

  /**
   * Begins to write the waiting group, after the write under way. Resolves when the new write has begun. With nothing to write for a while, sees
   * that the store has lost nothing: a failover shows by no write that nobody makes.
   */
  async write(): Promise<void> {
    await this.#finishWriting();
    if (this.#group.length === 0) {
      if (this.#deps.clock.monotonic() >= this.#confirmedAt + storeCheckMs) await this.#confirm();
      return;
    }
    const group = this.#group;
    this.#group = [];
    this.#groupOps = 0;
    this.#isWriting = true;
    this.#writing = this.#apply(group).finally(() => {
      this.#isWriting = false;
    });
    // Whoever comes next awaits it; until then a failure is not unhandled.
    this.#writing.catch(() => {
      this.#hasFailed = true;
      this.#options.onFailure();
    });
  }

  /** Resolves when everything taken in is in the index. */
  async flush(): Promise<void> {
    await this.write();
    await this.#finishWriting();
  }

  /** Forgets what waits, waits out what is being written whatever comes of it. */
  async discard(): Promise<void> {
    this.#group = [];
    this.#groupOps = 0;
    await this.#writing?.catch(() => {});
    this.#writing = null;
    this.#hasFailed = false;
  }

  async #confirm(): Promise<void> {
    const { clock, metrics, logger } = this.#deps;
    await untilStored(() => this.#writer.verify(), { logger, onRetry: () => metrics.storeRetries.inc() }, this.#options.signal);
    this.#confirmedAt = clock.monotonic();
  }

  async #finishWriting(): Promise<void> {
    const writing = this.#writing;
    if (writing === null) return;
    try {
      await writing;
    } finally {
      if (this.#writing === writing) this.#writing = null;
      this.#hasFailed = false;
    }
  }

  async #apply(group: readonly FedBatch[]): Promise<void> {
    const { clock, metrics, logger } = this.#deps;
    const startedAt = clock.monotonic();
    const retry = { logger, onRetry: () => metrics.storeRetries.inc() };
    const result = await untilStored(() => this.#writer.apply(group), retry, this.#options.signal);
    const doneAt = clock.monotonic();
    this.#confirmedAt = doneAt;
    metrics.flushSeconds.observe((doneAt - startedAt) / 1_000);
    if (result.duplicates > 0) metrics.duplicates.inc(result.duplicates);
    if (result.unknownRemovals > 0) metrics.unknownRemovals.inc(result.unknownRemovals);
    for (const [op, blocks] of Object.entries(countOps(group))) if (blocks > 0) metrics.blocks.inc({ op }, blocks);
    const receivedAt = group.find((batch) => batch.receivedAt !== null)?.receivedAt;
    if (receivedAt !== undefined && receivedAt !== null) metrics.visibleSeconds.observe((doneAt - receivedAt) / 1_000);
    const last = group.at(-1);
    if (last !== undefined) this.#options.onWritten(last.seq);
  }
}

function countOps(group: readonly FedBatch[]): Readonly<Record<IndexOp["op"], number>> {
  const blocks = { store: 0, remove: 0, confirm: 0 };
  for (const batch of group) for (const { op, keys } of batch.ops) blocks[op] += keys.length;
  return blocks;
}
