import type { BlockStored } from "@kvatlas/shared/events/events";
import type { CacheGroup, CacheGroupId } from "@kvatlas/shared/types";

/** A model has a handful of cache groups; ids beyond this many are taken for noise. */
const maxGroups = 64;

/**
 * What a group's blocks mean for a prediction, from vLLM's `kv_cache_spec_kind` (0.22 to 0.33; null before: one full-attention group).
 *
 * Chunked local attention needs the blocks of the current chunk only, and the event does not say how long a chunk is; without a window a
 * sliding group cannot be confirmed either. Both are `other`: they never limit a prediction, which may then be too high by a chunk.
 */
export function groupKindOf(specKind: string | null, slidingWindowTokens: number | null): CacheGroup["kind"] {
  switch (specKind) {
    case null:
    case "full_attention":
    case "mla_attention":
    case "sink_full_attention":
      return "full";
    case "sliding_window":
    case "sliding_window_mla":
      return slidingWindowTokens === null ? "other" : "sliding";
    default:
      return "other";
  }
}

/** Cache groups of one engine, learned from its stores: removals carry a group's number and nothing else. */
export class GroupCatalog {
  readonly #groups = new Map<CacheGroupId, CacheGroup>();

  constructor(groups: readonly CacheGroup[] = []) {
    for (const group of groups) this.#groups.set(group.id, group);
  }

  /** Ascending by id. */
  list(): readonly CacheGroup[] {
    return [...this.#groups.values()].sort((a, b) => a.id - b.id);
  }

  /** True when the store told something new. Hash-only stores tell nothing. */
  learn(event: BlockStored): boolean {
    if (event.blockSizeTokens <= 0) return false;
    const known = this.#groups.get(event.group);
    if (known !== undefined && event.specKind === null) return false;
    if (known === undefined && this.#groups.size >= maxGroups) return false;
    const kind = groupKindOf(event.specKind, event.slidingWindowTokens);
    const windowTokens = kind === "sliding" ? event.slidingWindowTokens : null;
    // Events of partially filled blocks name the smaller size in which hashes are made.
    const blockSizeTokens = Math.max(known?.blockSizeTokens ?? 0, event.blockSizeTokens);
    if (known?.kind === kind && known.windowTokens === windowTokens && known.blockSizeTokens === blockSizeTokens) return false;
    this.#groups.set(event.group, { id: event.group, kind, blockSizeTokens, windowTokens });
    return true;
  }

  /** The group whose blocks are those that prompts are cut into: full attention, of this block size; 0 when none is known. */
  chainGroup(blockSizeTokens: number): CacheGroupId {
    return this.list().find((group) => group.kind === "full" && group.blockSizeTokens === blockSizeTokens)?.id ?? 0;
  }

  clear(): void {
    this.#groups.clear();
  }
}
