import type { BlockStored } from "../events/events.ts";
import type { MediaItem } from "./block-hasher.ts";
import { isMediaPair, wireExtrasOf } from "./wire-extras.ts";

/*
 * With `--enable-tower-connector-lora` (vLLM 0.14 and later) an adapter changes what is computed of an image, so the engine names images apart for each
 * adapter: `<adapter>:<identifier>`. Render endpoints answer with plain identifiers all the same.
 */

/** Items of a request for an adapter, as such an engine names them. */
export function mediaOfAdapter(media: readonly MediaItem[], adapter: string): readonly MediaItem[] {
  return media.map((item) => ({ ...item, identifier: prefixOf(adapter) + item.identifier }));
}

/** Whether an engine names images apart for each adapter, as a store shows; null where it does not: no adapter, or no image in a form that is certain. */
export function namesMediaByAdapter(event: BlockStored): boolean | null {
  if (event.loraName === null || event.extraKeys === null) return null;
  const prefix = prefixOf(event.loraName);
  for (const block of event.extraKeys.keys()) {
    for (const item of wireExtrasOf(event, block) ?? []) {
      if (isMediaPair(item)) return item[0].startsWith(prefix);
      // Up to 0.18 an identifier stands alone, like a salt, which only the first block of a prompt can have.
      if (typeof item === "string" && item.startsWith(prefix) && !(block === 0 && event.parent === null)) return true;
    }
  }
  return null;
}

function prefixOf(adapter: string): string {
  return `${adapter}:`;
}
