import { createRandom } from "../statistics.ts";
import { type TraceLine, traceBlockTokens } from "./trace-workload.ts";

/** What the requests of a generated trace look like. Medians and sigmas are those of lognormal distributions. */
export interface TraceShape {
  readonly requests: number;
  readonly spanS: number;
  /** Blocks that every longer prompt begins with: a system prompt. */
  readonly sharedBlocks: number;
  /** Part of the first turns that are short questions without a follow-up. */
  readonly shortShare: number;
  readonly firstTokens: { readonly median: number; readonly sigma: number };
  /** Probability that a turn is followed by another one of the same session. */
  readonly continues: number;
  /** What a further turn adds to the prompt, the answer before it included. */
  readonly addedTokens: { readonly median: number; readonly sigma: number };
  readonly gapS: { readonly median: number; readonly sigma: number };
  readonly outputTokens: { readonly median: number; readonly sigma: number };
}

/**
 * Shapes after the two Mooncake FAST'25 traces (arXiv 2407.00079): `conversation` as one hour of production chats (two thirds of the requests
 * share nothing but a system prompt, the rest go on about two minutes later), `synthetic` as long documents with short questions and a good part
 * of tiny prompts.
 */
export const traceShapes = {
  conversation: {
    requests: 4_000,
    spanS: 1_300,
    sharedBlocks: 1,
    shortShare: 0,
    firstTokens: { median: 6_500, sigma: 1.1 },
    continues: 0.36,
    addedTokens: { median: 1_700, sigma: 1.3 },
    gapS: { median: 120, sigma: 0.9 },
    outputTokens: { median: 320, sigma: 0.6 },
  },
  synthetic: {
    requests: 4_000,
    spanS: 1_020,
    sharedBlocks: 0,
    shortShare: 0.52,
    firstTokens: { median: 17_000, sigma: 0.7 },
    continues: 0.66,
    addedTokens: { median: 420, sigma: 0.6 },
    gapS: { median: 65, sigma: 1.2 },
    outputTokens: { median: 90, sigma: 1.1 },
  },
} as const satisfies Readonly<Record<string, TraceShape>>;

export type TraceShapeName = keyof typeof traceShapes;

const longestPromptTokens = 128_000;
const longestShortTokens = 500;

/** A trace in the Mooncake form, the same for the same shape and seed. */
export function generateTrace(shape: TraceShape, seed: number): readonly TraceLine[] {
  const next = createRandom(seed);
  const uniform = (): number => (next() + 0.5) / 2 ** 32;
  const lognormal = ({ median, sigma }: { readonly median: number; readonly sigma: number }): number =>
    median * Math.exp(sigma * Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform()));
  const exponential = (mean: number): number => -mean * Math.log(uniform());
  let lastId = shape.sharedBlocks;
  const lines: TraceLine[] = [];
  const spanMs = shape.spanS * 1000;
  // Sessions begin at a constant rate from before the trace on, so that its beginning has follow-ups like its end.
  const perSession = shape.shortShare + (1 - shape.shortShare) / (1 - shape.continues);
  const betweenSessionsMs = (spanMs * perSession) / shape.requests;
  for (let begins = -spanMs / 4; begins < spanMs; begins += exponential(betweenSessionsMs)) {
    const isShort = uniform() < shape.shortShare;
    const shared = isShort ? 0 : shape.sharedBlocks;
    const ids = Array.from({ length: shared }, (_, i) => i);
    let length = isShort ? 20 + uniform() * (longestShortTokens - 20) : shared * traceBlockTokens + lognormal(shape.firstTokens);
    for (let at = begins; at < spanMs && length < longestPromptTokens; ) {
      const inputLength = Math.ceil(length);
      const outputLength = Math.max(1, Math.ceil(Math.min(2_000, lognormal(shape.outputTokens))));
      const full = Math.floor(inputLength / traceBlockTokens);
      while (ids.length < full) ids.push(lastId++);
      const isPartial = inputLength % traceBlockTokens > 0;
      if (at >= 0) {
        const hashIds = isPartial ? [...ids, lastId++] : [...ids];
        lines.push({ timestamp: Math.floor(at), input_length: inputLength, output_length: outputLength, hash_ids: hashIds });
      }
      if (isShort || uniform() >= shape.continues) break;
      at += lognormal(shape.gapS) * 1000;
      length += outputLength + lognormal(shape.addedTokens);
    }
  }
  return lines.sort((a, b) => a.timestamp - b.timestamp);
}
