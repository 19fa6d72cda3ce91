import type { EndpointId } from "../types.ts";
import type { BlockHolder, IndexPosition } from "./block-index.ts";
import { completeSeq, type Position } from "./redis-keys.ts";

/** Adds one entry to the count of its endpoint. */
export function tally(counts: Map<EndpointId, { live: number; dead: number }>, { endpoint, live }: BlockHolder): void {
  const count = counts.get(endpoint) ?? { live: 0, dead: 0 };
  if (live) count.live += 1;
  else count.dead += 1;
  counts.set(endpoint, count);
}

/** One endpoint's positions in all shards (null: none there) as one; null when it has none anywhere. */
export function positionOf(shards: readonly (Position | null)[]): IndexPosition | null {
  const known = shards.filter((position) => position !== null);
  const newest = known.reduce<Position | null>((best, position) => {
    if (best === null || position.incarnation > best.incarnation) return position;
    return position.incarnation === best.incarnation && position.fence > best.fence ? position : best;
  }, null);
  if (newest === null) return null;
  const agree = known.length === shards.length && known.every(({ incarnation }) => incarnation === newest.incarnation);
  return {
    incarnation: newest.incarnation,
    fence: newest.fence,
    applied: agree ? Math.min(...known.map(({ mark }) => completeSeq(mark))) : null,
  };
}
