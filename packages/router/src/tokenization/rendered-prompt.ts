import { KvatlasError } from "@kvatlas/shared/errors";
import type { EncodedPrompt } from "@kvatlas/shared/tokenization/prompt-encoder";
import { mediaOfFeatures } from "../request/media-features.ts";
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
    const media = mediaOfFeatures(fieldOf(entry, "features"));
    if (media === null) throw unexpected("features");
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

function fieldOf(value: unknown, name: string): unknown {
  return typeof value === "object" && value !== null ? Reflect.get(value, name) : undefined;
}

function unexpected(what: string): KvatlasError {
  return new KvatlasError("KVATLAS_ENDPOINT_UNAVAILABLE", `the replica's answer has no usable ${what}`);
}
