/** How well one router's decisions turned out, summed since it started. */
export interface RouterQuality {
  /** When the sums began, and when they were written: ms since the epoch. */
  readonly since: number;
  readonly at: number;
  readonly precise: number;
  readonly estimated: number;
  readonly load: number;
  readonly off: number;
  /** Of precise and estimated decisions. */
  readonly promptTokens: number;
  readonly matchedTokens: number;
  /** Tokens that another endpoint held more than the picked one. */
  readonly regretTokens: number;
  /** Answers in which the engine told how much it had found in its cache. */
  readonly compared: number;
  readonly predictedTokens: number;
  readonly reportedTokens: number;
  /** Of `compared`: as predicted, less found than predicted, more. */
  readonly exact: number;
  readonly over: number;
  readonly under: number;
  /** What is wrong, as far as this router knows. @defaultValue nothing */
  readonly findings?: readonly RouterFinding[];
}

export interface RouterFinding {
  readonly pool: string;
  /** Of few, e.g. `tokenizer`. */
  readonly name: string;
  /** For people: what it is, what follows, what to do. */
  readonly text: string;
}

/** What routers say of themselves, for people. Rejects with KVATLAS_REDIS_UNAVAILABLE when the store cannot be reached. */
export interface QualityRecords {
  /** Replaces what the router said before; forgotten after `ttlMs`. */
  save(routerId: string, quality: RouterQuality, ttlMs: number): Promise<void>;
  /** Of those of the named routers that have said something. */
  read(routerIds: readonly string[]): Promise<ReadonlyMap<string, RouterQuality>>;
}

export const noQuality: Omit<RouterQuality, "since" | "at" | "findings"> = {
  precise: 0,
  estimated: 0,
  load: 0,
  off: 0,
  promptTokens: 0,
  matchedTokens: 0,
  regretTokens: 0,
  compared: 0,
  predictedTokens: 0,
  reportedTokens: 0,
  exact: 0,
  over: 0,
  under: 0,
};
