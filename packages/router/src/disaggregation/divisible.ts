type Json = Readonly<Record<string, unknown>>;

/**
 * Whether a chat or completion can be computed in two steps, its prompt on one replica and its answer on another: one prompt, one answer, and nothing
 * that is told about the prompt itself. What already names another engine's blocks stays as it is.
 */
export function isDivisible(kind: "chat" | "completion", json: Json): boolean {
  if (kind === "completion" && !hasOnePrompt(json.prompt)) return false;
  if ((json.n ?? 1) !== 1 || (json.best_of ?? 1) !== 1 || json.use_beam_search === true) return false;
  if (json.echo === true || isGiven(json.prompt_logprobs) || isGiven(json.prompt_embeds)) return false;
  const params = json.kv_transfer_params;
  if (!isGiven(params)) return true;
  return typeof params === "object" && params !== null && !("do_remote_prefill" in params) && !("do_remote_decode" in params);
}

function hasOnePrompt(prompt: unknown): boolean {
  return typeof prompt === "string" || (Array.isArray(prompt) && (typeof prompt[0] === "number" || prompt.length === 1));
}

function isGiven(value: unknown): boolean {
  return value !== undefined && value !== null;
}
