/** One request of a workload, before it is known where it goes. */
export interface ModelRequest {
  /** Milliseconds after its phase began or, with `follows`, after that request was answered. */
  readonly atMs: number;
  /** Place in the phase of the request whose end it waits for; absent when it comes by the clock. */
  readonly follows?: number;
  readonly promptTokens: number;
  readonly outputTokens: number;
  /** Prompt and answer in one; called when the request arrives, so that a workload need not hold all of its tokens. */
  readonly tokens: () => Uint32Array;
  /** Sent past the routers, to the replicas in turn: traffic that came another way. @defaultValue false */
  readonly bypassesRouters?: boolean;
}

/** Requests that are sent together; a phase begins when everything of the one before has been answered. */
export interface Phase {
  readonly name: string;
  /** Excluded from the figures. @defaultValue false */
  readonly isWarmUp?: boolean;
  readonly requests: readonly ModelRequest[];
}

export interface Workload {
  readonly name: string;
  /** Granularity of caching: tokens per block of the engines. */
  readonly blockSizeTokens: number;
  readonly phases: readonly Phase[];
}

/** Fills a stretch of tokens with what a seed determines: equal seeds give equal tokens, others practically never do. */
export function fillTokens(tokens: Uint32Array, from: number, to: number, seed: number): void {
  let state = Math.imul(seed + 1, 0x9e3779b1) >>> 0;
  for (let i = from; i < to; i += 1) {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    tokens[i] = state >>> 8;
  }
}
