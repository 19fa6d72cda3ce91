import type { CacheGroup, CacheGroupId, EndpointId, Medium } from "../types.ts";
import type { PrefixMatch } from "./block-index.ts";
import { type HybridLayout, hybridHit, hybridLayout } from "./hybrid-hit.ts";
import { mediaByRank } from "./redis-keys.ts";

/** Rank of a block that is not there: worse than every medium. */
export const ABSENT = mediaByRank.length;

/** Best rank (index in `mediaByRank`) in which an endpoint holds the block at a position in a cache group, or {@link ABSENT}. */
export type RankAt = (position: number, endpoint: EndpointId, group: CacheGroupId) => number;

/** Cache groups of the endpoints that have several, ready to use. */
export type Layouts = ReadonlyMap<EndpointId, HybridLayout>;

export function layoutsOf(groups: ReadonlyMap<EndpointId, readonly CacheGroup[]> | undefined): Layouts {
  const layouts = new Map<EndpointId, HybridLayout>();
  for (const [endpoint, list] of groups ?? []) {
    // One full-attention group 0 is what everybody has.
    const [only] = list;
    if (list.length === 0 || (list.length === 1 && only !== undefined && only.id === 0 && only.kind !== "sliding")) continue;
    layouts.set(endpoint, hybridLayout(list));
  }
  return layouts;
}

/** Rank of a block in the groups that define the prefix: as good as the worst of the full-attention groups (ABSENT when one lacks it). */
export function prefixRank(layout: HybridLayout | undefined, position: number, endpoint: EndpointId, rankAt: RankAt): number {
  if (layout === undefined) return rankAt(position, endpoint, 0);
  let worst = 0;
  for (const group of layout.full) {
    const last = (Math.floor(position / group.ratio) + 1) * group.ratio - 1;
    worst = Math.max(worst, rankAt(last, endpoint, group.id));
  }
  return worst;
}

/** The match of one endpoint, found by looking at every block. Null when it holds no leading block. */
export function exactMatch(blocks: number, endpoint: EndpointId, layout: HybridLayout | undefined, rankAt: RankAt): PrefixMatch | null {
  const counts = new Array<number>(ABSENT).fill(0);
  if (layout === undefined) {
    let held = 0;
    for (; held < blocks; held += 1) {
      const rank = rankAt(held, endpoint, 0);
      if (rank >= ABSENT) break;
      counts[rank] = (counts[rank] ?? 0) + 1;
    }
    return matchOf(held, counts);
  }
  const hit = hybridHit(layout, blocks, (group, position) => rankAt(position, endpoint, group) < ABSENT);
  for (let position = 0; position < hit; position += 1) {
    const rank = prefixRank(layout, position, endpoint, rankAt);
    counts[rank] = (counts[rank] ?? 0) + 1;
  }
  return matchOf(hit, counts);
}

/** @param counts blocks by rank */
export function matchOf(blocks: number, counts: readonly number[]): PrefixMatch | null {
  if (blocks === 0) return null;
  const byMedium: Partial<Record<Medium, number>> = {};
  for (const [rank, medium] of mediaByRank.entries()) {
    const count = counts[rank] ?? 0;
    if (count > 0) byMedium[medium] = count;
  }
  return { blocks, byMedium };
}
