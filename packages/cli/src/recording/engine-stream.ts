import { isOfAnotherRun, nextStep } from "@kvatlas/ingester/subscriber/sequence-tracker";
import type { EventBatch } from "@kvatlas/shared/events/events";

/** One batch of an engine, from whichever frame brought it first. */
export interface EngineBatch {
  readonly seq: number;
  /** Line of that frame. */
  readonly line: number;
  readonly payload: Uint8Array;
  readonly batch: EventBatch;
  /** When the live socket delivered it, on the recorder's clock; null when only a replay did. */
  receivedMs: number | null;
}

/** Batches of one publisher (one rank of one engine) from one start of it to the next. */
export interface StreamRun {
  /** Ascending, each sequence number once. */
  readonly batches: readonly EngineBatch[];
  /** True when sequence number 0 came after a later one and nothing else told of the restart. */
  readonly isRestart: boolean;
}

/** What became of a frame. */
export type Merged = "new" | "duplicate" | "contradiction";

interface OpenRun {
  readonly bySeq: Map<number, EngineBatch>;
  readonly isRestart: boolean;
  live: number;
  highest: EngineBatch | null;
}

/**
 * Puts live and replayed batches of one publisher together as the ingester would, except that a replay may fill history long afterwards.
 * Which number means a restart is decided by the ingester's own rules.
 */
export class EngineStream {
  readonly #runs: OpenRun[] = [newRun(false)];

  get runs(): readonly StreamRun[] {
    return this.#runs.map(({ bySeq, isRestart }) => ({
      isRestart,
      batches: [...bySeq.values()].sort((a, b) => a.seq - b.seq),
    }));
  }

  addLive(entry: Omit<EngineBatch, "receivedMs">, receivedMs: number): Merged {
    const run = this.#current();
    const known = run.bySeq.get(entry.seq);
    // The very same bytes, time stamp included, are no restart: a socket that connected twice hears everything twice.
    if (known !== undefined && equalBytes(known.payload, entry.payload)) {
      known.receivedMs ??= receivedMs;
      run.live = Math.max(run.live, entry.seq);
      return "duplicate";
    }
    const step = nextStep({ live: run.live, applied: run.highest?.seq ?? -1 }, entry.seq);
    if (step.kind === "restart" || this.#isOfAnotherRun(run, entry)) return this.#restart({ ...entry, receivedMs }, entry.seq);
    run.live = entry.seq;
    return known === undefined ? store(run, { ...entry, receivedMs }) : "contradiction";
  }

  addReplay(entry: Omit<EngineBatch, "receivedMs">): Merged {
    const run = this.#current();
    const known = run.bySeq.get(entry.seq);
    if (known !== undefined && equalBytes(known.payload, entry.payload)) return "duplicate";
    if (this.#isOfAnotherRun(run, entry)) return this.#restart({ ...entry, receivedMs: null }, -1);
    return known === undefined ? store(run, { ...entry, receivedMs: null }) : "contradiction";
  }

  #current(): OpenRun {
    const run = this.#runs.at(-1);
    if (run === undefined) throw new Error("a stream always has a run");
    return run;
  }

  #isOfAnotherRun(run: OpenRun, entry: { readonly seq: number; readonly batch: EventBatch }): boolean {
    const mark = run.bySeq.get(entry.seq) ?? run.highest;
    if (mark === null) return false;
    const received = { seq: entry.seq, timestampSeconds: entry.batch.timestampSeconds };
    return isOfAnotherRun({ seq: mark.seq, timestampSeconds: mark.batch.timestampSeconds }, received);
  }

  #restart(entry: EngineBatch, live: number): Merged {
    const run = newRun(true);
    run.live = live;
    this.#runs.push(run);
    return store(run, entry);
  }
}

function newRun(isRestart: boolean): OpenRun {
  return { bySeq: new Map(), isRestart, live: -1, highest: null };
}

function store(run: OpenRun, entry: EngineBatch): Merged {
  run.bySeq.set(entry.seq, entry);
  if (run.highest === null || entry.seq > run.highest.seq) run.highest = entry;
  return "new";
}

function equalBytes(a: Uint8Array, b: Uint8Array): boolean {
  return Buffer.compare(a, b) === 0;
}
