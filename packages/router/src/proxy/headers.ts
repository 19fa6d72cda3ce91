import type { UpstreamCredentials } from "../access/access-guard.ts";
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

/** Headers that only we and the gateways in front may set; a client's word on them counts nothing. */
const reservedPrefixes = ["x-kvatlas-", "x-gateway-", "x-llm-d-"];
const requestIdHeader = "x-request-id";
const rankHeader = "x-data-parallel-rank";
const credentialHeaders = new Set(["authorization", "x-api-key"]);

/** What is done with a header of a request by its name alone. */
type Verdict = "pass" | "drop" | "connection" | "rank" | "credential";

/** Clients have few names for headers; whoever invents more of them is judged anew each time. */
const maxKnownNames = 1_000;

/** Names as they come, upper and lower case, with their verdicts: a request has a dozen of them, always the same. */
export class HeaderVerdicts {
  readonly #known = new Map<string, Verdict>();

  of(name: string): Verdict {
    const known = this.#known.get(name);
    if (known !== undefined) return known;
    const verdict = verdictOf(name.toLowerCase());
    if (this.#known.size < maxKnownNames) this.#known.set(name, verdict);
    return verdict;
  }
}

function verdictOf(lower: string): Verdict {
  if (lower === "connection") return "connection";
  if (hopByHop.has(lower) || requestOnly.has(lower) || lower === requestIdHeader) return "drop";
  if (reservedPrefixes.some((prefix) => lower.startsWith(prefix))) return "drop";
  if (lower === rankHeader) return "rank";
  return credentialHeaders.has(lower) ? "credential" : "pass";
}

/**
 * Headers of the request to a replica, as a flat list of names and values: the client's, in order and spelling (trace headers among them), without
 * hop-by-hop and reserved headers, with the request id. Replicas that serve several data-parallel ranks behind one address are told the rank
 * (`X-data-parallel-rank`, vLLM 0.11.1+). Credentials that are meant for this router go no further; the replica's own key is put in their place.
 */
export function upstreamRequestHeaders(
  verdicts: HeaderVerdicts,
  rawHeaders: readonly string[],
  requestId: string,
  endpoint: Pick<FleetEndpoint, "ranked" | "rank">,
  credentials: UpstreamCredentials,
): string[] {
  const named = connectionOptions(rawHeaders);
  const dropsCredentials = credentials.dropClients || credentials.apiKey !== null;
  const headers: string[] = [];
  for (let i = 0; i + 1 < rawHeaders.length; i += 2) {
    const name = rawHeaders[i] ?? "";
    const verdict = verdicts.of(name);
    if (verdict === "drop" || verdict === "connection") continue;
    if ((verdict === "rank" && endpoint.ranked) || (verdict === "credential" && dropsCredentials)) continue;
    if (named?.has(name.toLowerCase()) === true) continue;
    headers.push(name, rawHeaders[i + 1] ?? "");
  }
  headers.push(requestIdHeader, requestId);
  if (endpoint.ranked) headers.push("X-data-parallel-rank", String(endpoint.rank));
  if (credentials.apiKey !== null) headers.push("authorization", `Bearer ${credentials.apiKey}`);
  return headers;
}

/**
 * Headers of the answer to the client: the replica's, in order and spelling, without hop-by-hop headers and without those that are ours to
 * say, then `own`.
 *
 * @param lengthChanges - the body will be of another length than the replica announces
 */
export function clientResponseHeaders(
  verdicts: HeaderVerdicts,
  rawHeaders: readonly Buffer[],
  own: readonly string[],
  lengthChanges = false,
): string[] {
  const text: string[] = [];
  for (const part of rawHeaders) text.push(part.toString("latin1"));
  const named = connectionOptions(text);
  const headers: string[] = [];
  for (let i = 0; i + 1 < text.length; i += 2) {
    const name = text[i] ?? "";
    const verdict = verdicts.of(name);
    // The length is dropped from requests alone: there the client's HTTP stack writes it.
    if (verdict === "connection" || (verdict === "drop" && !isLength(name))) continue;
    if ((lengthChanges && isLength(name)) || named?.has(name.toLowerCase()) === true) continue;
    headers.push(name, text[i + 1] ?? "");
  }
  for (const part of own) headers.push(part);
  return headers;
}

const contentLength = "content-length";

function isLength(name: string): boolean {
  return name.length === contentLength.length && name.toLowerCase() === contentLength;
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
