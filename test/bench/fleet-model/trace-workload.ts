import { fillTokens, type ModelRequest, type Workload } from "./workload.ts";

/** One line of a trace in the Mooncake FAST'25 form. */
export interface TraceLine {
  /** Milliseconds since the trace began, not decreasing. */
  readonly timestamp: number;
  readonly input_length: number;
  readonly output_length: number;
  /** One id for each block of 512 prompt tokens, the last one possibly partial; chained: equal ids at the start mean an equal prefix. */
  readonly hash_ids: readonly number[];
}

/** Tokens per id of a trace, and so the finest granularity at which it tells what is cached. */
export const traceBlockTokens = 512;

/**
 * A trace as a workload: each id becomes the same 512 tokens wherever it occurs, answers are like nothing else.
 *
 * @param load - how many times faster than recorded the requests come
 */
export function traceWorkload(name: string, lines: readonly TraceLine[], load: number): Workload {
  const began = lines[0]?.timestamp ?? 0;
  const requests = lines.map((line, place): ModelRequest => {
    const promptTokens = line.input_length;
    const outputTokens = Math.max(1, line.output_length);
    return {
      atMs: (line.timestamp - began) / load,
      promptTokens,
      outputTokens,
      tokens: () => {
        const tokens = new Uint32Array(promptTokens + outputTokens);
        for (let i = 0; i * traceBlockTokens < promptTokens; i += 1) {
          const from = i * traceBlockTokens;
          fillTokens(tokens, from, Math.min(from + traceBlockTokens, promptTokens), line.hash_ids[i] ?? 0);
        }
        fillTokens(tokens, promptTokens, tokens.length, 0x40000000 + place);
        return tokens;
      },
    };
  });
  return { name, blockSizeTokens: traceBlockTokens, phases: [{ name, requests }] };
}

/**
 * Percent of the prompt tokens that one cache without end would hold when each request comes: what no router can exceed. Full blocks only, and
 * never a whole prompt, as engines have it; answers are not looked up again.
 */
export function idealHitPercent(lines: readonly TraceLine[]): number {
  const seen = new Set<number>();
  let hits = 0;
  let all = 0;
  for (const { input_length: length, hash_ids: ids } of lines) {
    all += length;
    const limit = Math.floor((length - 1) / traceBlockTokens);
    let at = 0;
    while (at < limit && seen.has(ids[at] ?? -1)) at += 1;
    hits += at * traceBlockTokens;
    const full = Math.floor(length / traceBlockTokens);
    for (let i = 0; i < full; i += 1) seen.add(ids[i] ?? -1);
  }
  return all === 0 ? 0 : (100 * hits) / all;
}
