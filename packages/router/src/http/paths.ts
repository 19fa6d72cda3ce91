/**
 * What of an engine's HTTP interface is open to clients: inference, under `/v1` and a few older names (vLLM 0.33). Control endpoints
 * (`/sleep`, `/reset_prefix_cache`, ...) and adapter loading concern one replica, and are not for clients of a fleet.
 */
const forwardedOutsideV1 = new Set([
  "/tokenize",
  "/detokenize",
  "/pooling",
  "/classify",
  "/score",
  "/rerank",
  "/v2/rerank",
  "/inference/v1/generate",
]);
const refused = new Set(["/v1/load_lora_adapter", "/v1/unload_lora_adapter"]);

/** Anthropic's API, which has errors of its own. */
export function isMessagesPath(path: string): boolean {
  return path === "/v1/messages" || path.startsWith("/v1/messages/");
}

/** Known, and not for clients. */
export function isRefused(path: string): boolean {
  return refused.has(path);
}

export function isForwarded(path: string): boolean {
  return (path.startsWith("/v1/") && !refused.has(path)) || forwardedOutsideV1.has(path);
}

/** Paths that are always JSON, whatever the content type says. */
export function isPromptPath(path: string): boolean {
  return path === "/v1/chat/completions" || path === "/v1/completions" || path === "/inference/v1/generate";
}
