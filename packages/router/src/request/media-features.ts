import type { MediaItem } from "@kvatlas/shared/hashing/block-hasher";

/** Items of one prompt that are taken into account: every block's key looks at all of them. */
const maxItems = 512;
/** Engines' identifiers are digests; clients may give names of their own. */
const maxIdentifierChars = 1_024;

/**
 * Images and the like of a prompt of token ids, in prompt order: identifiers and placeholders per modality, each in the same order (vLLM 0.15 and later,
 * `MultiModalFeatures` of GenerateRequest and of what the render endpoints answer). None for null; null when that is not what it is, or too much of it.
 */
export function mediaOfFeatures(features: unknown): readonly MediaItem[] | null {
  if (features === undefined || features === null) return [];
  const { mm_hashes: hashes, mm_placeholders: placeholders } = fieldsOf(features);
  if (typeof hashes !== "object" || hashes === null) return null;
  const items: MediaItem[] = [];
  for (const [modality, identifiers] of Object.entries(hashes)) {
    const places = fieldsOf(placeholders)[modality];
    if (!Array.isArray(identifiers) || !Array.isArray(places) || places.length !== identifiers.length) return null;
    if (items.length + identifiers.length > maxItems) return null;
    for (const [i, identifier] of identifiers.entries()) {
      const { offset, length } = fieldsOf(places[i]);
      if (typeof identifier !== "string" || identifier.length > maxIdentifierChars || !isPosition(offset) || !isPosition(length))
        return null;
      items.push({ identifier, offset, length });
    }
  }
  return items.sort((a, b) => a.offset - b.offset);
}

function fieldsOf(value: unknown): Readonly<Record<string, unknown>> {
  return typeof value === "object" && value !== null ? (value as Readonly<Record<string, unknown>>) : {};
}

function isPosition(value: unknown): value is number {
  return typeof value === "number" && Number.isInteger(value) && value >= 0 && value <= 0x7fff_ffff;
}
