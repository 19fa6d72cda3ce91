const largestId = 0xffff_ffff;

/** Token ids of a JSON value, or null when it is not a non-empty list of them. */
export function tokenIdsOf(value: unknown): Uint32Array | null {
  if (!Array.isArray(value) || value.length === 0) return null;
  const ids = new Uint32Array(value.length);
  for (let i = 0; i < value.length; i++) {
    const id: unknown = value[i];
    if (typeof id !== "number" || !Number.isInteger(id) || id < 0 || id > largestId) return null;
    ids[i] = id;
  }
  return ids;
}

/** One prompt (`[1, 2]`) or several (`[[1, 2], [3]]`) as lists of token ids; null when it is neither. */
export function tokenPromptsOf(value: unknown): readonly Uint32Array[] | null {
  if (!Array.isArray(value) || value.length === 0) return null;
  if (!Array.isArray(value[0])) {
    const ids = tokenIdsOf(value);
    return ids === null ? null : [ids];
  }
  const prompts: Uint32Array[] = [];
  for (const item of value) {
    const ids = tokenIdsOf(item);
    if (ids === null) return null;
    prompts.push(ids);
  }
  return prompts;
}

/**
 * What an engine keeps of a prompt under `truncate_prompt_tokens` (vLLM 0.16+; `truncation_side` defaults to the tokenizer's side, which is
 * left for generation). Negative values mean the model's length, which the router does not know: such a prompt stays whole.
 */
export function truncateTokenIds(ids: Uint32Array, limit: unknown, side: unknown): Uint32Array {
  if (typeof limit !== "number" || !Number.isInteger(limit) || limit < 1 || limit >= ids.length) return ids;
  return side === "right" ? ids.subarray(0, limit) : ids.subarray(ids.length - limit);
}
