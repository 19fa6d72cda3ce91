/** What a process of the proxy bench is. */
export type TargetRole = "replica" | "bare" | "router";

/**
 * What a process is asked for over IPC, and answers with a number: CPU time (user and system, since the start, in microseconds), or resident bytes after a
 * garbage collection. Apart, because a forced collection throws away compiled code, too, and what runs next would take twice its time.
 */
export type Question = "cpuUs" | "residentBytes";

/** A small completion. */
export const answerAfter = Buffer.from(
  JSON.stringify({ id: "x", object: "text_completion", choices: [{ index: 0, text: "a".repeat(600), finish_reason: "stop" }] }),
);

export interface StreamPlan {
  readonly chunks: number;
  readonly everyMs: number;
}

export const completionsPath = "/v1/completions";

/** A body of so many bytes. How the answer is to be streamed stands in the prompt: every proxy passes that on, whatever else it leaves out. */
export function bodyOf(model: string, bytes: number, stream: StreamPlan | null): Buffer {
  const [flag, plan] = stream === null ? ["", ""] : [`"stream":true,`, `chunks=${stream.chunks}&every=${stream.everyMs} `];
  const head = `{"model":"${model}","max_tokens":16,${flag}"prompt":"${plan}`;
  return Buffer.from(`${head}${"words and more ".repeat(Math.ceil(bytes / 15)).slice(0, bytes - head.length - 2)}"}`);
}

/** Null: a small answer at once. */
export function streamPlanOf(body: Buffer): StreamPlan | null {
  if (!body.includes("chunks=")) return null;
  const found = /"chunks=(\d+)&every=(\d+) /.exec(body.toString("latin1"));
  return found === null ? null : { chunks: Number(found[1]), everyMs: Number(found[2]) };
}
