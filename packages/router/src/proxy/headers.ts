import type { FleetEndpoint } from "../fleet/fleet.ts";

/** Headers of one connection, not of the message (RFC 9110 section 7.6.1), and those the two HTTP stacks write themselves. */
const hopByHop = new Set([
  "connection",
  "keep-alive",
  "proxy-authenticate",
  "proxy-authorization",
  "proxy-connection",
  "te",
  "trailer",
  "transfer-encoding",
  "upgrade",
]);

/** Of requests further: what undici writes (host, content-length) or the server has answered already (expect). */
const requestOnly = new Set(["host", "content-length", "expect"]);

const ownPrefix = "x-kvatlas-";
const requestIdHeader = "x-request-id";
const rankHeader = "x-data-parallel-rank";

/**
 * Headers of the request to a replica, as a flat list of names and values: the client's, in order and spelling, without hop-by-hop headers,
 * without `x-kvatlas-*` (a client's word on our own headers counts nothing), with the request id. Replicas that serve several data-parallel
 * ranks behind one address are told the rank (`X-data-parallel-rank`, vLLM 0.11.1+).
 */
export function upstreamRequestHeaders(rawHeaders: readonly string[], requestId: string, endpoint: FleetEndpoint): string[] {
  const named = connectionOptions(rawHeaders);
  const headers: string[] = [];
  for (let i = 0; i + 1 < rawHeaders.length; i += 2) {
    const name = rawHeaders[i] ?? "";
    const lower = name.toLowerCase();
    if (hopByHop.has(lower) || requestOnly.has(lower) || lower === requestIdHeader || lower.startsWith(ownPrefix)) continue;
    if (named?.has(lower) === true || (endpoint.ranked && lower === rankHeader)) continue;
    headers.push(name, rawHeaders[i + 1] ?? "");
  }
  headers.push(requestIdHeader, requestId);
  if (endpoint.ranked) headers.push("X-data-parallel-rank", String(endpoint.rank));
  return headers;
}

/**
 * Headers of the answer to the client: the replica's, in order and spelling, without hop-by-hop headers and without those that are ours to
 * say, then `own`.
 */
export function clientResponseHeaders(rawHeaders: readonly Buffer[], own: readonly string[]): string[] {
  const text = rawHeaders.map((part) => part.toString("latin1"));
  const named = connectionOptions(text);
  const headers: string[] = [];
  for (let i = 0; i + 1 < text.length; i += 2) {
    const name = text[i] ?? "";
    const lower = name.toLowerCase();
    if (hopByHop.has(lower) || lower === requestIdHeader || lower.startsWith(ownPrefix) || named?.has(lower) === true) continue;
    headers.push(name, text[i + 1] ?? "");
  }
  headers.push(...own);
  return headers;
}

const connectionLength = "connection".length;

/** Header names that `Connection` declares hop-by-hop; null when there are none. */
function connectionOptions(rawHeaders: readonly string[]): ReadonlySet<string> | null {
  let named: Set<string> | null = null;
  for (let i = 0; i + 1 < rawHeaders.length; i += 2) {
    if (rawHeaders[i]?.length !== connectionLength || rawHeaders[i]?.toLowerCase() !== "connection") continue;
    for (const option of (rawHeaders[i + 1] ?? "").split(",")) {
      const name = option.trim().toLowerCase();
      if (name === "" || name === "close" || name === "keep-alive") continue;
      named ??= new Set();
      named.add(name);
    }
  }
  return named;
}

/** A client's request id when it is fit for logs and headers: 1 to 128 visible ASCII characters. */
export function acceptableRequestId(value: string | readonly string[] | undefined): string | null {
  return typeof value === "string" && /^[\x21-\x7e]{1,128}$/.test(value) ? value : null;
}
