import type { IncomingHttpHeaders } from "node:http";
import { jsonFields } from "@kvatlas/shared/tokenization/json-fields";
import { isForwarded, isRefused } from "../http/paths.ts";
import { HttpError } from "../request/openai-error.ts";

const safeMethods = new Set(["GET", "HEAD", "OPTIONS"]);

/**
 * Which paths reach the replicas is the gateway's to say; that of engines' controls (`/sleep`, adapters) a client may use none is said here as well.
 *
 * @throws HttpError 403, 404
 */
export function refuseControlPath(headers: IncomingHttpHeaders, path: string | null): void {
  const method = headers[":method"];
  if (path === null || typeof method !== "string" || safeMethods.has(method)) return;
  if (isRefused(path)) throw new HttpError(403, "adapters are loaded and unloaded at each replica, not through the gateway.");
  if (isForwarded(path)) return;
  throw new HttpError(404, `there is no ${method.slice(0, 20)} ${path.slice(0, 200)} here: use the OpenAI API under /v1.`);
}

/** Path of a request whose gateway names none, by the fields of its body. */
export function sniffPath(body: Buffer): string {
  const names = body[0] === 0x7b ? fieldNames(body.toString("utf8")) : new Set<string>();
  if (names.has("messages")) return "/v1/chat/completions";
  if (names.has("token_ids")) return "/inference/v1/generate";
  if (names.has("input")) return "/v1/responses";
  return "/v1/completions";
}

function fieldNames(text: string): ReadonlySet<string> {
  return new Set((jsonFields(text) ?? []).map(({ name }) => name));
}
