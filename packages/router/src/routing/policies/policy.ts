import type { Candidate, Ranked } from "../candidate.ts";

/** What policies know of a request beside what each endpoint holds of it. */
export interface RequestFacts {
  /** 0 when unknown, which leaves load alone. */
  readonly promptTokens: number;
  /** Equal scores go by it, and so do scorers that spread requests: the same on every router. */
  readonly tieKey: string;
  /** Adapter that the request asks for; null for the base model. */
  readonly lora: string | null;
  /** What the client names its session; null when it names none. */
  readonly session: string | null;
}

/**
 * Orders the endpoints that could take a request. Pure: what it needs to know is in the candidates and the facts, so that every router orders alike at
 * the same moment.
 */
export interface Policy {
  readonly name: string;
  /** Every candidate once, best first, each with its score and what it is made of. */
  rank(candidates: readonly Candidate[], facts: RequestFacts): readonly Ranked[];
}
