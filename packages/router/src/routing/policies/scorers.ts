import { pickByRendezvous, rankByRendezvous } from "@kvatlas/shared/rendezvous";
import { type Candidate, queuedRequestsOf } from "../candidate.ts";
import { heldWorth } from "./held-worth.ts";
import type { Scorer } from "./scorer.ts";

/** `prefix-cache-scorer`: the cached part of the prompt, each medium by its weight; 0 when the prompt is unknown. */
const prefixCache: Scorer = (candidates, { promptTokens }, { mediumWeights }) =>
  candidates.map((candidate) => (promptTokens === 0 ? 0 : Math.min(1, heldWorth(candidate, mediumWeights) / promptTokens)));

/**
 * `queue-scorer`: 1 for the shortest queue, 0 for the longest, in proportion between; 1 for all when they are equal. Requests that an engine got since
 * its figures were read count as queued, where llm-d goes by the figures alone, which it reads ten times as often.
 */
const queue: Scorer = (candidates) => shortestFirst(candidates.map((candidate) => queuedRequestsOf(candidate.load)));

/** `kv-cache-utilization-scorer`: the part of the KV cache that no running request uses. An engine that does not tell counts as empty. */
const kvCacheUtilization: Scorer = (candidates) => candidates.map((candidate) => 1 - Math.min(1, Math.max(0, candidate.load.kvUsage ?? 0)));

/**
 * `lora-affinity-scorer`: 1 where the adapter is running, 0.8 where there is a free slot for it, 0.6 where requests for it wait already, else 0.
 * Requests for the base model score 0 everywhere. An engine that does not tell its slots counts as having one.
 */
const loraAffinity: Scorer = (candidates, { lora }) => candidates.map((candidate) => (lora === null ? 0 : loraScore(candidate, lora)));

/**
 * `active-request-scorer`: 1 for no request under way, 0 for as many as the busiest candidate has, in proportion between. Counts the requests of all
 * routers, where llm-d counts those of one.
 */
const activeRequest: Scorer = (candidates) => {
  const most = candidates.reduce((max, { load }) => Math.max(max, load.inflightRequests), 0);
  return candidates.map(({ load }) => (most === 0 ? 1 : (most - load.inflightRequests) / most));
};

/**
 * `session-affinity-scorer`: 1 for the endpoint of the session, by rendezvous hash of its name among the candidates: no table of sessions, which routers
 * would have to share, and no token, which clients would have to send back. 0 everywhere for requests without a session.
 */
const sessionAffinity: Scorer = (candidates, { session }) => {
  const home = session === null ? undefined : pickByRendezvous(session, idsOf(candidates));
  return candidates.map(({ endpoint }) => (endpoint.id === home ? 1 : 0));
};

/**
 * `no-hit-lru-scorer`: spreads prompts that nobody holds any part of, from 1 down to 0 over the candidates; requests that somebody does hold score 0.5
 * everywhere. The order is the rendezvous order of the prompt, where llm-d goes by which endpoint got a cold request least recently, as remembered
 * by one router: routers that do not share that memory would disagree.
 */
const noHitLru: Scorer = (candidates, { tieKey }) => {
  if (candidates.some((candidate) => candidate.matchedTokens > 0)) return candidates.map(() => 0.5);
  const last = Math.max(1, candidates.length - 1);
  const places = new Map(rankByRendezvous(tieKey, idsOf(candidates)).map((id, place) => [id, place]));
  return candidates.map(({ endpoint }) => 1 - (places.get(endpoint.id) ?? last) / last);
};

/** Every scorer by the name under which it is weighed in `router.scorers`. */
export const scorers = {
  "prefix-cache-scorer": prefixCache,
  "queue-scorer": queue,
  "kv-cache-utilization-scorer": kvCacheUtilization,
  "lora-affinity-scorer": loraAffinity,
  "active-request-scorer": activeRequest,
  "session-affinity-scorer": sessionAffinity,
  "no-hit-lru-scorer": noHitLru,
} as const satisfies Readonly<Record<string, Scorer>>;

export type ScorerName = keyof typeof scorers;

function shortestFirst(lengths: readonly number[]): readonly number[] {
  const shortest = Math.min(...lengths);
  const span = Math.max(...lengths) - shortest;
  return lengths.map((length) => (span === 0 ? 1 : 1 - (length - shortest) / span));
}

function loraScore({ load }: Candidate, lora: string): number {
  if (load.runningLoras.includes(lora)) return 1;
  const taken = new Set([...load.runningLoras, ...load.waitingLoras]).size;
  if (load.maxLoras === null || taken < load.maxLoras) return 0.8;
  return load.waitingLoras.includes(lora) ? 0.6 : 0;
}

function idsOf(candidates: readonly Candidate[]): string[] {
  return candidates.map(({ endpoint }) => endpoint.id);
}
