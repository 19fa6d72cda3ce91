import type { Medium } from "@kvatlas/shared/types";
import type { FleetEndpoint } from "../fleet/fleet.ts";

/** Load of one endpoint: what its engine reports, and what routers have under way to it. */
export interface CandidateLoad {
  /** Requests in the engine's queue and in its batch; 0 when unknown. */
  readonly waiting: number;
  readonly running: number;
  /** 0..1; null when unknown. */
  readonly kvUsage: number | null;
  /** Of all routers. */
  readonly inflightRequests: number;
  readonly prefillTokens: number;
  readonly decodeTokens: number;
  /** Adapters that run, and that requests wait for, as the engine reports. */
  readonly runningLoras: readonly string[];
  readonly waitingLoras: readonly string[];
  /** Adapters that can run at the same time; null when unknown. */
  readonly maxLoras: number | null;
}

/** One endpoint that could take the request, with all that the policies look at. */
export interface Candidate {
  readonly endpoint: FleetEndpoint;
  /** Prompt tokens it holds in any medium. */
  readonly matchedTokens: number;
  readonly byMedium: Readonly<Partial<Record<Medium, number>>>;
  readonly load: CandidateLoad;
}

/** What a score is made of, by name; for people. */
export type ScoreParts = Readonly<Record<string, number>>;

export interface Score {
  /** Higher is better. Comparable within one ranking only. */
  readonly score: number;
  readonly parts: ScoreParts;
}

/** A candidate in its place: the first of a ranking is picked, the next ones are where a retry goes. */
export interface Ranked extends Candidate, Score {}

/** Spelled out: a spread takes several times as long, and every decision ranks all candidates. */
export function scored({ endpoint, matchedTokens, byMedium, load }: Candidate, { score, parts }: Score): Ranked {
  return { endpoint, matchedTokens, byMedium, load, score, parts };
}

/** Requests that the endpoint is busy with. The engine's figures lag behind by a scrape, the routers' own do not and miss other clients: the larger one counts. */
export function requestsOf(load: CandidateLoad): number {
  return Math.max(load.waiting + load.running, load.inflightRequests);
}

/** Requests that wait in the engine's queue, those included that it got since its figures were read and cannot have begun yet as far as these tell. */
export function queuedRequestsOf(load: CandidateLoad): number {
  return Math.max(load.waiting, load.inflightRequests - load.running);
}
