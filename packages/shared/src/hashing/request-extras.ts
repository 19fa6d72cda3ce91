import type { KeyExtras } from "./block-hasher.ts";
import type { HashTuple, HashValue } from "./hash-value.ts";
import type { ExtrasForm } from "./key-scheme.ts";

/** Whether `form` hashes something of these extras that is not known: the tagged form the path of the LoRA adapter. Their keys cannot be computed. */
export function lacksKnowledge(extras: KeyExtras | undefined, form: ExtrasForm | "content"): boolean {
  return form === "tagged" && extras?.lora !== undefined && extras.lora.path === undefined;
}

/**
 * Extra keys of the block of a request that covers `[start, end)` of the prompt, as `form` hashes them, in vLLM's fixed order LoRA, media,
 * salt (`v1/core/kv_cache_utils.py`, `generate_block_hash_extra_keys`). Null for none. `mediaEnd` is `end` plus the lookahead tokens.
 */
export function extrasOfBlock(extras: KeyExtras, form: ExtrasForm | "content", start: number, mediaEnd: number): HashTuple | null {
  const values: HashValue[] = [];
  if (extras.lora !== undefined && form !== "content") {
    values.push(form === "tagged" ? ["lora", extras.lora.name, extras.lora.path ?? null] : extras.lora.name);
  }
  for (const { identifier, offset, length } of extras.media ?? []) {
    if (offset >= mediaEnd || offset + length <= start) continue;
    // An item that began in an earlier block has a negative offset.
    const relative = offset - start;
    values.push(form === "tagged" ? ["mm", identifier, relative] : form === "offset" ? [identifier, relative] : identifier);
  }
  // Later blocks inherit the salt through the chain. An empty salt is none.
  if (start === 0 && extras.cacheSalt) values.push(form === "tagged" ? ["cache_salt", extras.cacheSalt] : extras.cacheSalt);
  return values.length === 0 ? null : values;
}
