/** What a process of the proxy bench is. */
export type TargetRole = "replica" | "bare" | "router";

export interface ProcessFigures {
  /** User and system, since the start. */
  readonly cpuUs: number;
  /** After a garbage collection. */
  readonly residentBytes: number;
}

/** A small completion. */
export const answerAfter = Buffer.from(
  JSON.stringify({ id: "x", object: "text_completion", choices: [{ index: 0, text: "a".repeat(600), finish_reason: "stop" }] }),
);

export interface StreamPlan {
  readonly chunks: number;
  readonly everyMs: number;
}

const path = "/v1/completions";

export function pathOf(stream: StreamPlan | null): string {
  return stream === null ? path : `${path}?chunks=${stream.chunks}&every=${stream.everyMs}`;
}

export function streamed(url: string): StreamPlan | null {
  const found = /\?chunks=(\d+)&every=(\d+)$/.exec(url);
  return found === null ? null : { chunks: Number(found[1]), everyMs: Number(found[2]) };
}
