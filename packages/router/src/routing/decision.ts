import type { Division } from "../disaggregation/division.ts";
import type { FleetEndpoint } from "../fleet/fleet.ts";
import type { Ranked } from "./candidate.ts";
import type { Placement } from "./placement.ts";

/**
 * How a decision came about: `precise` by what the replicas hold, `estimated` by what routers sent where, `load` where neither could be known in time, `off`
 * where it is not wanted.
 */
export type DecisionMode = "precise" | "estimated" | "load" | "off";

/**
 * Why. Precise and estimated: `prefix` (the longest prefix wins), `balanced` (a longer one exists where it would have to wait), `cold` (nobody holds any).
 * Precise: `speculated` (follows a request that was just sent there). Estimated: `low-match` (too little is known to go by), and what kept precise from
 * knowing. Load: what kept the prefix from being known. Off: the policy.
 */
export const decisionReasons = [
  "prefix",
  "balanced",
  "cold",
  "speculated",
  "low-match",
  "endpoint-silent",
  "endpoint-not-indexed",
  "not-a-prompt",
  "not-a-plain-chat",
  "media",
  "prompt-embeds",
  "pick-timeout",
  "skips-cache",
  "no-tokenizer",
  "tokenize-timeout",
  "tokenizer-busy",
  "tokenizer-failed",
  "prompt-invalid",
  "not-indexed",
  "short-prompt",
  "lookup-timeout",
  "index-unavailable",
  "least-request",
  "round-robin",
  "random",
] as const;
export type DecisionReason = (typeof decisionReasons)[number];

/** Milliseconds with fractions; null for steps that were not taken. */
export interface DecisionTimings {
  readonly tokenizeMs: number | null;
  readonly keysMs: number | null;
  /** Lookup and load, which are read together. */
  readonly lookupMs: number | null;
  readonly totalMs: number;
}

export interface Decision {
  readonly endpoint: FleetEndpoint;
  readonly mode: DecisionMode;
  readonly reason: DecisionReason;
  /** Null when the prompt was not tokenized. */
  readonly promptTokens: number | null;
  /** Of the picked endpoint. */
  readonly matchedTokens: number;
  /** Blocks that were looked up, over all prompts of the request. */
  readonly blocks: number;
  readonly matchedBlocks: number;
  /** Best first; the picked endpoint is the first. */
  readonly ranking: readonly Ranked[];
  readonly timings: DecisionTimings;
  /** Whether prompt and answer are computed on different replicas, and where; absent where requests are not divided. */
  readonly division?: Division;
  /** To be told what becomes of the request; absent for dry runs and where nothing is remembered. */
  readonly placement?: Placement;
}
