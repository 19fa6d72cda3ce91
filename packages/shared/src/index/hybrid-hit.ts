import type { CacheGroup, CacheGroupId } from "../types.ts";

/** Whether the endpoint holds, in a cache group, the block whose key is at this position of the chain. */
export type Holds = (group: CacheGroupId, position: number) => boolean;

/** An endpoint's cache groups, prepared for {@link hybridHit}. Lengths are in blocks of the chain. */
export interface HybridLayout {
  readonly full: readonly GroupLayout[];
  readonly sliding: readonly GroupLayout[];
  /** A hit is a multiple of this: the least common multiple of the groups' block sizes, which is the engine's scheduler block. */
  readonly step: number;
  /** True when every group's blocks are as long as those of the chain. */
  readonly uniform: boolean;
}

interface GroupLayout {
  readonly id: CacheGroupId;
  /** Chain blocks per block of this group. Its key is the chain's key at its last position (vLLM: group hash = last fine hash). */
  readonly ratio: number;
  /** Blocks of this group that a hit must be followed back by; 0 for full attention. */
  readonly windowBlocks: number;
}

/**
 * The chain's block size is the greatest common divisor of the groups' (vLLM `hash_block_size`, 0.12 and later).
 * Groups of kind `other` (mamba and the like) never limit a prediction and are left out.
 */
export function hybridLayout(groups: readonly CacheGroup[]): HybridLayout {
  const sizes = groups.map((group) => group.blockSizeTokens).filter((size) => size > 0);
  const unit = sizes.length === 0 ? 1 : sizes.reduce(greatestCommonDivisor);
  const layout = (group: CacheGroup): GroupLayout => {
    const size = group.blockSizeTokens > 0 ? group.blockSizeTokens : unit;
    return {
      id: group.id,
      ratio: size / unit,
      windowBlocks: group.windowTokens === null ? 0 : Math.ceil(Math.max(0, group.windowTokens - 1) / size),
    };
  };
  const full = groups.filter((group) => group.kind === "full").map(layout);
  const sliding = groups.filter((group) => group.kind === "sliding").map(layout);
  const step = [...full, ...sliding].reduce((common, { ratio }) => (common / greatestCommonDivisor(common, ratio)) * ratio, 1);
  return { full, sliding, step, uniform: step === 1 };
}

/**
 * Leading blocks that an engine with several cache groups takes from its cache: the longest prefix k that every full-attention group
 * holds and for which every sliding-window group (window W, block size B) holds blocks k-1 down to max(0, k - ceil((W-1)/B)).
 * Source: vLLM `v1/core/single_type_kv_cache_manager.py` (0.12 to 0.33), checked against recordings of vLLM 0.32 with Gemma 3.
 *
 * @param limit chain blocks that can hit at all; the answer is at most this
 */
export function hybridHit(layout: HybridLayout, limit: number, holds: Holds): number {
  if (layout.full.length === 0 && layout.sliding.length === 0) return 0;
  let hit = limit - (limit % layout.step);
  for (const group of layout.full) hit = Math.min(hit, fullPrefix(group, hit, holds));
  hit -= hit % layout.step;
  // Each failed window gives a lower candidate; all groups must agree on one.
  for (;;) {
    let candidate = hit;
    for (const group of layout.sliding) candidate = Math.min(candidate, slidingCandidate(group, candidate, holds));
    candidate -= candidate % layout.step;
    if (candidate === hit) return hit;
    hit = candidate;
  }
}

function fullPrefix(group: GroupLayout, limit: number, holds: Holds): number {
  const blocks = Math.floor(limit / group.ratio);
  for (let block = 0; block < blocks; block += 1) {
    if (!holds(group.id, (block + 1) * group.ratio - 1)) return block * group.ratio;
  }
  return blocks * group.ratio;
}

/** `hit` when its window is held; otherwise the largest prefix that may be: one that ends before the block found missing. */
function slidingCandidate(group: GroupLayout, hit: number, holds: Holds): number {
  const end = Math.floor(hit / group.ratio);
  const begin = Math.max(0, end - group.windowBlocks);
  for (let block = end - 1; block >= begin; block -= 1) {
    if (!holds(group.id, (block + 1) * group.ratio - 1)) return block * group.ratio;
  }
  return end * group.ratio;
}

function greatestCommonDivisor(a: number, b: number): number {
  return b === 0 ? a : greatestCommonDivisor(b, a % b);
}
