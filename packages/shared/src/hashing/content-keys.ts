import type { BlockStored } from "../events/events.ts";
import type { BlockKey } from "../types.ts";
import { keyOfDigest } from "./block-digest.ts";
import { createContentDigest } from "./content-digest.ts";
import { contentExtras, wireExtrasOf } from "./wire-extras.ts";

/** Why a store has no content keys; its blocks stay out of the index. */
export type ContentObstacle = "no tokens" | "tokens do not pair with hashes" | "lora name unknown";

/** One key per hash of the event, or why there are none. */
export type ContentKeys = { readonly keys: readonly BlockKey[] } | { readonly obstacle: ContentObstacle };

export interface ContentKeyMapper {
  /**
   * Keys of the event's blocks; equal to what a BlockHasher of the content scheme gives for the same prompt, adapter, media and salt.
   *
   * @param parentKey - content key of the event's parent block; null exactly when `event.parent` is null
   */
  keysOf(event: BlockStored, parentKey: BlockKey | null): ContentKeys;
}

/** Content keys from the side of the events, see {@link createContentDigest}. Pure. */
export function createContentKeyMapper(options: { readonly seed: string; readonly model: string }): ContentKeyMapper {
  const digest = createContentDigest(options.seed, options.model);
  return {
    keysOf: (event, parentKey) => {
      const { hashes, tokenIds, blockSizeTokens } = event;
      if (hashes.length > 0 && (tokenIds.length === 0 || blockSizeTokens === 0)) return { obstacle: "no tokens" };
      if (tokenIds.length !== hashes.length * blockSizeTokens) return { obstacle: "tokens do not pair with hashes" };
      if (event.loraId !== null && event.loraName === null) return { obstacle: "lora name unknown" };
      let parent: string = parentKey ?? digest.root(event.loraName);
      const keys = hashes.map((_, block) => {
        const extras = contentExtras(wireExtrasOf(event, block), event.loraName);
        const lookahead = event.lookahead?.[block] ?? null;
        parent = digest.next(parent, tokenIds, block * blockSizeTokens, (block + 1) * blockSizeTokens, extras, lookahead);
        return keyOfDigest(parent);
      });
      return { keys };
    },
  };
}
