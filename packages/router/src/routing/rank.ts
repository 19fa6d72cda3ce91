import { rankByRendezvous } from "@kvatlas/shared/rendezvous";
import { type Candidate, type Ranked, type Score, scored } from "./candidate.ts";

/**
 * Orders candidates by score, highest first. Equal scores go by rendezvous hash of `tieKey`: the same on every router, spread over the
 * endpoints, and stable when others come and go.
 */
export function rank(
  candidates: readonly Candidate[],
  scoreOf: (candidate: Candidate, place: number) => Score,
  tieKey: string,
): readonly Ranked[] {
  const ranked = candidates.map((candidate, place) => scored(candidate, scoreOf(candidate, place)));
  ranked.sort((a, b) => b.score - a.score);
  for (let from = 0; from < ranked.length; ) {
    let to = from + 1;
    while (to < ranked.length && ranked[to]?.score === ranked[from]?.score) to++;
    if (to - from > 1) {
      const tied = new Map(ranked.slice(from, to).map((candidate) => [candidate.endpoint.id as string, candidate]));
      const order = rankByRendezvous(tieKey, [...tied.keys()]);
      for (let i = 0; i < order.length; i++) {
        const candidate = tied.get(order[i] ?? "");
        if (candidate !== undefined) ranked[from + i] = candidate;
      }
    }
    from = to;
  }
  return ranked;
}
