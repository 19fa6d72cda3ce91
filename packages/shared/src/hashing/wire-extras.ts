import type { BlockStored, WireExtra } from "../events/events.ts";
import type { HashTuple, HashValue } from "./hash-value.ts";

/** First items of the tuples that vLLM hashes since 0.31; should a release publish them as they are, they are recognised. */
const tags: ReadonlySet<WireExtra> = new Set(["lora", "mm", "cache_salt", "prompt_embeds"]);

/** Whether the wire's extra keys are hashed as they stand (up to 0.30) or as tagged tuples (0.31 and on). */
export type ExtrasMode = "untagged" | "tagged";

/** Why the hashed form of a block's extras is not known. */
export type ExtrasObstacle = "lora name unknown" | "lora path unknown" | "extra keys unreadable";

/**
 * Extra keys of one block as the engine put them on the wire: LoRA name, [identifier, offset] pairs, salt, digest, in this order and untagged in
 * every release. Releases before 0.17 send none: what the event tells otherwise, the adapter's name, stands in; a salt or media stay unseen.
 */
export function wireExtrasOf(event: BlockStored, block: number): readonly WireExtra[] | null {
  if (event.extraKeys === null) return event.loraName === null ? null : [event.loraName];
  const extras = event.extraKeys[block] ?? null;
  return extras !== null && extras.length === 0 ? null : extras;
}

/**
 * Extra keys of a block as they are hashed (vLLM `v1/core/kv_cache_utils.py`), from their form on the wire.
 *
 * @param loraPath - the path that adapter was loaded from; the tagged form hashes it and events do not carry it
 */
export function hashedExtras(
  wire: readonly WireExtra[] | null,
  mode: ExtrasMode,
  loraName: string | null,
  loraPath: string | undefined,
): HashTuple | null | { readonly obstacle: ExtrasObstacle } {
  if (wire === null) return null;
  if (!wire.every(isHashable)) return { obstacle: "extra keys unreadable" };
  if (mode === "untagged") return wire;
  const values: HashValue[] = [];
  for (const [index, item] of wire.entries()) {
    if (index === 0 && loraName !== null && item === loraName) {
      if (loraPath === undefined) return { obstacle: "lora path unknown" };
      values.push(["lora", loraName, loraPath]);
    } else if (typeof item === "string") values.push(["cache_salt", item]);
    else if (item instanceof Uint8Array) values.push(["prompt_embeds", item]);
    else if (isTagged(item)) values.push(item);
    else if (isMediaPair(item)) values.push(["mm", ...item]);
    else return { obstacle: "extra keys unreadable" };
  }
  return values;
}

/**
 * Extra keys of a block as content keys take them: media identifiers without their offsets, the salt, a prompt-embeds digest. The LoRA name is
 * left out, because it is in the root of the chain.
 */
export function contentExtras(wire: readonly WireExtra[] | null, loraName: string | null): HashTuple | null {
  if (wire === null) return null;
  const values: (string | Uint8Array)[] = [];
  for (const [index, item] of wire.entries()) {
    if (index === 0 && loraName !== null && item === loraName) continue;
    const value = isTagged(item) ? (item[0] === "lora" ? undefined : item[1]) : isMediaPair(item) ? item[0] : item;
    if (typeof value === "string" || value instanceof Uint8Array) values.push(value);
  }
  return values.length === 0 ? null : values;
}

/** A media item with its offset: the shape that tells 0.19 and later from 0.17 and 0.18. */
export function isMediaPair(item: WireExtra): item is readonly [string, number | bigint] {
  return (
    Array.isArray(item) && item.length === 2 && typeof item[0] === "string" && (typeof item[1] === "number" || typeof item[1] === "bigint")
  );
}

function isTagged(item: WireExtra): item is readonly WireExtra[] {
  return Array.isArray(item) && item.length >= 2 && tags.has(item[0]) && !isMediaPair(item);
}

function isHashable(item: WireExtra): boolean {
  if (typeof item === "number") return Number.isSafeInteger(item);
  return !Array.isArray(item) || item.every(isHashable);
}
