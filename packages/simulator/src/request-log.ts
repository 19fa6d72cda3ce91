import type { Sequence } from "./engine/sequence.ts";

/** What became of one sequence; the truth that routing quality is measured against. */
export interface RequestRecord {
  /** Of the HTTP request, `-<n>` appended for the further sequences of one request. */
  readonly id: string;
  readonly rank: number;
  /** Model name of the request: the base model or an adapter. */
  readonly model: string;
  readonly promptTokens: number;
  /** Prompt tokens the engine found in its own cache. */
  readonly cachedTokens: number;
  readonly generatedTokens: number;
  readonly preemptions: number;
  readonly finishReason: "stop" | "length" | "abort";
  readonly timeToFirstTokenMs: number | null;
  readonly durationMs: number;
}

export interface RequestTotals {
  readonly finished: number;
  readonly aborted: number;
  readonly promptTokens: number;
  readonly cachedTokens: number;
  readonly generatedTokens: number;
  readonly preemptions: number;
}

/** Records kept for `/sim/stats`; older ones only count in the totals. */
const keptRecords = 10_000;

/** Totals of all requests since the start (restarts included) and the last of them one by one. */
export class RequestLog {
  #records: RequestRecord[] = [];
  #totals = { finished: 0, aborted: 0, promptTokens: 0, cachedTokens: 0, generatedTokens: 0, preemptions: 0 };

  get totals(): RequestTotals {
    return { ...this.#totals };
  }

  /** Oldest first. */
  records(limit = keptRecords): readonly RequestRecord[] {
    return this.#records.slice(-limit);
  }

  add(
    rank: number,
    model: string,
    sequence: Sequence,
    finishReason: RequestRecord["finishReason"],
    times: { readonly timeToFirstTokenMs: number | null; readonly durationMs: number },
  ): void {
    const record: RequestRecord = {
      id: sequence.spec.id,
      rank,
      model,
      promptTokens: sequence.spec.promptTokens,
      cachedTokens: Math.max(0, sequence.cachedTokens),
      generatedTokens: sequence.generated,
      preemptions: sequence.preemptions,
      finishReason,
      ...times,
    };
    this.#records.push(record);
    if (this.#records.length >= 2 * keptRecords) this.#records = this.#records.slice(-keptRecords);
    const totals = this.#totals;
    if (finishReason === "abort") totals.aborted += 1;
    else totals.finished += 1;
    totals.preemptions += record.preemptions;
    totals.generatedTokens += record.generatedTokens;
    // A request that never ran looked nothing up.
    if (sequence.cachedTokens < 0) return;
    totals.promptTokens += record.promptTokens;
    totals.cachedTokens += record.cachedTokens;
  }
}
