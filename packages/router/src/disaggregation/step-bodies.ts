import { jsonFields } from "@kvatlas/shared/tokenization/json-fields";

/**
 * The body of the prefill step: the request, for one token that nobody reads, with its blocks kept for another engine (vLLM's NIXL connector,
 * `do_remote_decode`). What would make the engine refuse so short an answer, or end it in a way that it does not hand over (before 0.24 by anything but
 * its length), is left out. All else stays as it was written. Null for what is no JSON object.
 */
export function prefillBody(bodyText: string): Buffer | null {
  const params = paramsOf(bodyText);
  if (params === null) return null;
  const remote =
    '"do_remote_decode":true,"do_remote_prefill":false,"remote_engine_id":null,"remote_block_ids":null,"remote_host":null,"remote_port":null';
  return withFields(bodyText, {
    max_tokens: "1",
    max_completion_tokens: null,
    min_tokens: null,
    stop: null,
    stop_token_ids: null,
    ignore_eos: "true",
    stream: "false",
    stream_options: null,
    return_token_ids: null,
    kv_transfer_params: `{${[...params.values(), remote].join(",")}}`,
  });
}

/**
 * The body of the decode step: the request with what the prefill step has handed over, as it was written there; fields of the request's own
 * `kv_transfer_params` stay, unless the prefill step names them. Null for what is no JSON object.
 *
 * @param handover - `kv_transfer_params` of the answer, a JSON object
 */
export function decodeBody(bodyText: string, handover: string): Buffer | null {
  const own = paramsOf(bodyText);
  const handed = fieldTexts(handover);
  if (own === null || handed === null) return null;
  return withFields(bodyText, { kv_transfer_params: `{${[...new Map([...own, ...handed]).values()].join(",")}}` });
}

/** `kv_transfer_params` of an answer, as it is written there; null when nothing is handed over, or too little to find the blocks by. */
export function handoverOf(answerText: string): string | null {
  const field = jsonFields(answerText)?.findLast(({ name }) => name === "kv_transfer_params");
  if (field === undefined) return null;
  const text = answerText.slice(field.start, field.end);
  const named = new Set(jsonFields(text)?.map(({ name }) => name));
  return named.has("remote_engine_id") && named.has("remote_host") && named.has("remote_port") ? text : null;
}

/** Fields of the request's own `kv_transfer_params` by name, as they are written. */
function paramsOf(bodyText: string): ReadonlyMap<string, string> | null {
  const field = jsonFields(bodyText)?.findLast(({ name }) => name === "kv_transfer_params");
  if (field === undefined) return new Map();
  const text = bodyText.slice(field.start, field.end);
  return text === "null" ? new Map() : fieldTexts(text);
}

function fieldTexts(objectText: string): ReadonlyMap<string, string> | null {
  const fields = jsonFields(objectText);
  if (fields === null) return null;
  return new Map(fields.map(({ name, start, end }) => [name, `${JSON.stringify(name)}:${objectText.slice(start, end)}`]));
}

/** The object with other values for some fields, as JSON text; null leaves a field out. */
function withFields(objectText: string, changes: Readonly<Record<string, string | null>>): Buffer | null {
  const fields = fieldTexts(objectText);
  if (fields === null) return null;
  const changed = new Map(fields);
  for (const [name, text] of Object.entries(changes)) {
    if (text === null) changed.delete(name);
    else changed.set(name, `${JSON.stringify(name)}:${text}`);
  }
  return Buffer.from(`{${[...changed.values()].join(",")}}`);
}
