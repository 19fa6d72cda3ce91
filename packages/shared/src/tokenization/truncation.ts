import type { JsonObject } from "./lossless-json.ts";
import { cannotEncode, describe, promptInvalid, stringField } from "./request-body.ts";

/** What a request says about cutting its prompt. */
export interface Truncation {
  readonly maxTokens: number;
  /** null: the request does not say, so the engine cuts on the left and keeps special tokens. */
  readonly side: "left" | "right" | null;
}

/** `truncate_prompt_tokens` and `truncation_side` of a request (vLLM 0.16+); null without truncation. */
export function truncationOf(body: JsonObject): Truncation | null {
  const side = stringField(body, "truncation_side");
  if (side !== null && side !== "left" && side !== "right")
    throw promptInvalid(`truncation_side must be "left" or "right", got ${describe(side)}`);
  const limit = body.get("truncate_prompt_tokens") ?? null;
  if (limit === null) return null;
  if (typeof limit !== "number" || limit < -1)
    throw promptInvalid(`truncate_prompt_tokens must be an integer from -1 on, got ${describe(limit)}`);
  if (limit === -1) throw cannotEncode("truncate_prompt_tokens -1 depends on the model length of the engine, which is not known here");
  return { maxTokens: limit, side };
}

/**
 * The ids that stay. `specialBefore` and `specialAfter` count the ids the post-processor added: when the request names no side,
 * the engine's tokenizer cuts between them (transformers keeps special tokens); with a side it cuts the finished list.
 */
export function truncate(ids: Uint32Array, truncation: Truncation | null, specialBefore = 0, specialAfter = 0): Uint32Array {
  if (truncation === null || ids.length <= truncation.maxTokens) return ids;
  const { maxTokens, side } = truncation;
  if (side === "right") return ids.slice(0, maxTokens);
  const special = specialBefore + specialAfter;
  if (side === "left" || special === 0 || special > maxTokens) return ids.slice(ids.length - maxTokens);
  const kept = new Uint32Array(maxTokens);
  kept.set(ids.subarray(0, specialBefore));
  kept.set(ids.subarray(ids.length - specialAfter - (maxTokens - special)), specialBefore);
  return kept;
}
