import { KvatlasError } from "@kvatlas/shared/errors";
import type { MediaItem } from "@kvatlas/shared/hashing/block-hasher";
import type { EncodedPrompt } from "@kvatlas/shared/tokenization/prompt-encoder";
import { tokenIdsOf } from "../request/token-ids.ts";

/**
 * Prompts of a render endpoint's answer: one object for a chat, a list for completions (vLLM 0.15 and later, GenerateRequest).
 *
 * @throws KVATLAS_ENDPOINT_UNAVAILABLE the answer has another form
 */
export function promptsOfRender(json: unknown): readonly EncodedPrompt[] {
  const entries: unknown[] = Array.isArray(json) ? json : [json];
  return entries.map((entry) => {
    const tokenIds = idsOf(entry, "token_ids");
    const media = mediaOf(entry);
    return media.length === 0 ? { rendered: null, tokenIds } : { rendered: null, tokenIds, media };
  });
}

/** The prompt of `/tokenize`'s answer. @throws KVATLAS_ENDPOINT_UNAVAILABLE the answer has another form */
export function promptsOfTokenize(json: unknown): readonly EncodedPrompt[] {
  return [{ rendered: null, tokenIds: idsOf(json, "tokens") }];
}

function idsOf(entry: unknown, name: string): Uint32Array {
  const value = fieldOf(entry, name);
  const ids = Array.isArray(value) && value.length === 0 ? new Uint32Array(0) : tokenIdsOf(value);
  if (ids === null) throw unexpected(name);
  return ids;
}

/** `features` of a multimodal prompt: identifiers and placeholders, per modality and in the same order. */
function mediaOf(entry: unknown): readonly MediaItem[] {
  const features = fieldOf(entry, "features") ?? null;
  if (features === null) return [];
  const hashes = fieldOf(features, "mm_hashes");
  const placeholders = fieldOf(features, "mm_placeholders");
  if (typeof hashes !== "object" || hashes === null) throw unexpected("features.mm_hashes");
  const items: MediaItem[] = [];
  for (const [modality, identifiers] of Object.entries(hashes)) {
    const places = fieldOf(placeholders, modality);
    if (!Array.isArray(identifiers) || !Array.isArray(places) || places.length !== identifiers.length) throw unexpected("features");
    for (const [i, identifier] of identifiers.entries()) {
      const offset = fieldOf(places[i], "offset");
      const length = fieldOf(places[i], "length");
      if (typeof identifier !== "string" || typeof offset !== "number" || typeof length !== "number") throw unexpected("features");
      items.push({ identifier, offset, length });
    }
  }
  return items.sort((a, b) => a.offset - b.offset);
}

function fieldOf(value: unknown, name: string): unknown {
  return typeof value === "object" && value !== null ? Reflect.get(value, name) : undefined;
}

function unexpected(what: string): KvatlasError {
  return new KvatlasError("KVATLAS_ENDPOINT_UNAVAILABLE", `the replica's answer has no usable ${what}`);
}
