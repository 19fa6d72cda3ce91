import type { StepPlan } from "./scheduler.ts";

/** How long a model step takes. Linear, as published measurements of continuous batching are to a good approximation. */
export interface LatencyOptions {
  /** Prompt tokens computed per second. */
  readonly prefillTokensPerSecond: number;
  /** A decode step whatever the batch, milliseconds. */
  readonly decodeMs: number;
  /** Added for each sequence that decodes in the step, milliseconds. */
  readonly decodeMsPerSequence: number;
  /** Added for each 1,000 tokens of context of the scheduled sequences, milliseconds. */
  readonly contextMsPerThousandTokens: number;
  /** Tokens copied per second from host memory to the GPU. */
  readonly hostLoadTokensPerSecond: number;
  /** Everything runs this many times faster. */
  readonly speed: number;
}

/** Milliseconds of one step. Prefill and decode share a step and slow each other down. */
export function stepMs(plan: StepPlan, options: LatencyOptions): number {
  const prefill = (plan.prefillTokens / options.prefillTokensPerSecond) * 1000;
  const decode = plan.decodeSequences === 0 ? 0 : options.decodeMs + options.decodeMsPerSequence * plan.decodeSequences;
  const context = (plan.contextTokens / 1000) * options.contextMsPerThousandTokens;
  const load = (plan.loadedTokens / options.hostLoadTokensPerSecond) * 1000;
  return (prefill + decode + context + load) / options.speed;
}
