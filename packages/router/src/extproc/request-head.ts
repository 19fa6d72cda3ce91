import type { IncomingHttpHeaders } from "node:http";
import type { HeaderMap } from "./messages.ts";

/** Names and values of a message's head: names in lower case, of several fields of one name the first, as is done for HTTP. */
export function headersOf(map: HeaderMap | undefined): IncomingHttpHeaders {
  const headers: Record<string, string> = Object.create(null);
  for (const { key, value, rawValue } of map?.headers ?? []) {
    const name = (key ?? "").toLowerCase();
    if (name === "" || name in headers) continue;
    headers[name] = rawValue === undefined || rawValue.length === 0 ? (value ?? "") : rawValue.toString("latin1");
  }
  return headers;
}

/**
 * Path without the query; null when the gateway names none. Gateways that rewrite paths, or send no pseudo headers (NGINX Gateway Fabric), may name
 * the client's in a header.
 */
export function pathOf(headers: IncomingHttpHeaders): string | null {
  for (const name of [":path", "x-original-path", "x-forwarded-path"]) {
    const value = headers[name];
    if (typeof value === "string" && value.startsWith("/")) return value.split("?", 1)[0] ?? value;
  }
  return null;
}

/** Of an answer; null when there is none. */
export function statusOf(headers: IncomingHttpHeaders): number | null {
  const text = headers[":status"] ?? headers.status;
  return typeof text === "string" && /^[1-5]\d\d$/.test(text) ? Number(text) : null;
}

/** Names that steer this router or its kin; what a client says under them goes no further. */
const controlPrefixes = ["x-kvatlas-", "x-llm-d-", "x-gateway-inference-", "x-gateway-destination-endpoint-"];
const controlNames = new Set(["x-gateway-model-name-rewrite", "x-slo-ttft-ms", "x-slo-tpot-ms"]);

/** Those of the headers that must not reach a replica. Headers by which routes are matched, such as `x-gateway-model-name`, stay. */
export function controlHeadersIn(headers: IncomingHttpHeaders): readonly string[] {
  return Object.keys(headers).filter((name) => controlNames.has(name) || controlPrefixes.some((prefix) => name.startsWith(prefix)));
}
