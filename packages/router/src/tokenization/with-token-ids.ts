import { jsonFields } from "@kvatlas/shared/tokenization/json-fields";

/**
 * The body of a chat with its token ids added (`kv_transfer_params.prompt_token_ids`), which vLLM 0.32 and later uses instead of applying the
 * template and encoding the text again. All else stays as it was written. Null when the ids must not be added: the body names some already, or
 * asks for an echo, for which the engine wants the text.
 *
 * @param bodyText - a JSON object
 */
export function withTokenIds(bodyText: string, tokenIds: Uint32Array): Buffer | null {
  const fields = jsonFields(bodyText);
  if (fields === null || tokenIds.length === 0) return null;
  const value = (name: string): string | null => {
    // Of several fields of one name the last one counts.
    const field = fields.findLast((candidate) => candidate.name === name);
    return field === undefined ? null : bodyText.slice(field.start, field.end);
  };
  if (value("echo") === "true") return null;
  const ids = `"prompt_token_ids":[${tokenIds.join(",")}]`;
  const params = fields.findLast(({ name }) => name === "kv_transfer_params");
  if (params === undefined) {
    const open = bodyText.indexOf("{") + 1;
    return Buffer.from(`${bodyText.slice(0, open)}"kv_transfer_params":{${ids}}${fields.length === 0 ? "" : ","}${bodyText.slice(open)}`);
  }
  const given = bodyText.slice(params.start, params.end);
  if (given === "null") return Buffer.from(`${bodyText.slice(0, params.start)}{${ids}}${bodyText.slice(params.end)}`);
  const inner = jsonFields(given);
  if (inner === null || inner.some(({ name }) => name === "prompt_token_ids")) return null;
  const rest = given.slice(1);
  return Buffer.from(`${bodyText.slice(0, params.start)}{${ids}${inner.length === 0 ? "" : ","}${rest}${bodyText.slice(params.end)}`);
}
