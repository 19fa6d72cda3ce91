import { KvatlasError } from "../errors.ts";
import type { KeyExtras } from "./block-hasher.ts";
import type { HashTuple, HashValue } from "./hash-value.ts";
import type { ExtrasForm } from "./key-scheme.ts";

/**
 * Extra keys of the block of a request that covers `[start, end)` of the prompt, as `form` hashes them, in vLLM's fixed order LoRA, media,
 * salt (`v1/core/kv_cache_utils.py`, `generate_block_hash_extra_keys`). Null for none. `mediaEnd` is `end` plus the lookahead tokens.
 *
 * @throws KVATLAS_REQUEST_INVALID the tagged form needs the path of the LoRA adapter, and it is not known
 */
export function extrasOfBlock(extras: KeyExtras, form: ExtrasForm | "content", start: number, mediaEnd: number): HashTuple | null {
  const values: HashValue[] = [];
  if (extras.lora !== undefined && form !== "content") values.push(form === "tagged" ? taggedLora(extras.lora) : extras.lora.name);
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

function taggedLora(lora: { readonly name: string; readonly path?: string }): HashTuple {
  if (lora.path !== undefined) return ["lora", lora.name, lora.path];
  throw new KvatlasError(
    "KVATLAS_REQUEST_INVALID",
    `cannot compute block keys for LoRA adapter "${lora.name}": this engine hashes the adapter's path, which /v1/models has not told yet`,
  );
}
