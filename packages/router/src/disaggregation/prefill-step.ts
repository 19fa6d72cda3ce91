import type { IncomingMessage } from "node:http";
import type { Clock } from "@kvatlas/shared/clock";
import type { FleetEndpoint } from "../fleet/fleet.ts";
import type { ForwardDeps } from "../proxy/forward.ts";
import { upstreamRequestHeaders } from "../proxy/headers.ts";
import { handoverOf } from "./step-bodies.ts";

/** What became of one attempt. `nothing`: the prompt was computed, and its blocks are not handed over. */
export const prefillResults = ["handed", "nothing", "unreachable", "failed", "refused", "timeout", "client-gone"] as const;
export type PrefillResult = (typeof prefillResults)[number];

export interface PrefillAnswer {
  readonly result: PrefillResult;
  /** `kv_transfer_params` as the replica wrote them; null unless they were handed over. */
  readonly handover: string | null;
  /** Prompt tokens that the replica found in its cache; null when it does not tell. */
  readonly cachedTokens: number | null;
}

export type PrefillStepDeps = Pick<ForwardDeps, "pools" | "ejection" | "verdicts" | "credentials"> & { readonly clock: Clock };

/** One token, and the numbers of the prompt's blocks: 4 MiB are those of tens of millions of tokens. */
const maxAnswerBytes = 4_194_304;

/**
 * Lets one replica compute a prompt. Never rejects. The connection is closed at once when `leaving` aborts or the time is over, which ends the work.
 *
 * @param leaving - aborts when the client leaves
 */
export async function prefillAt(
  deps: PrefillStepDeps,
  endpoint: FleetEndpoint,
  request: Pick<IncomingMessage, "url" | "rawHeaders">,
  step: { readonly requestId: string; readonly body: Buffer; readonly timeoutMs: number; readonly leaving: AbortSignal },
): Promise<PrefillAnswer> {
  const { leaving } = step;
  const timeout = AbortSignal.timeout(step.timeoutMs);
  const ended = (result: PrefillResult): PrefillAnswer => ({ result, handover: null, cachedTokens: null });
  try {
    const { statusCode, body } = await deps.pools.get(endpoint.address).request({
      path: request.url ?? "/",
      method: "POST",
      headers: upstreamRequestHeaders(deps.verdicts, plainAnswers(request.rawHeaders), step.requestId, endpoint, deps.credentials()),
      body: step.body,
      signal: AbortSignal.any([leaving, timeout]),
    });
    const text = await textOf(body as AsyncIterable<Buffer>);
    if (statusCode >= 500) {
      deps.ejection.failed(endpoint.id);
      return ended("failed");
    }
    deps.ejection.succeeded(endpoint.id);
    if (statusCode !== 200) return ended("refused");
    const handover = text === null ? null : handoverOf(text);
    return { result: handover === null ? "nothing" : "handed", handover, cachedTokens: text === null ? null : cachedTokensOf(text) };
  } catch {
    if (leaving.aborted) return ended("client-gone");
    deps.ejection.failed(endpoint.id);
    return ended(timeout.aborted ? "timeout" : "unreachable");
  }
}

/** The answer is read here, not passed on: it must not come compressed. */
function plainAnswers(rawHeaders: readonly string[]): readonly string[] {
  const kept: string[] = [];
  for (let i = 0; i + 1 < rawHeaders.length; i += 2) {
    const name = rawHeaders[i] ?? "";
    if (name.toLowerCase() !== "accept-encoding") kept.push(name, rawHeaders[i + 1] ?? "");
  }
  return kept;
}

/** Null for more than an answer can be; the rest is not read. */
async function textOf(body: AsyncIterable<Buffer>): Promise<string | null> {
  const parts: Buffer[] = [];
  let bytes = 0;
  for await (const part of body) {
    bytes += part.length;
    if (bytes > maxAnswerBytes) return null;
    parts.push(part);
  }
  return Buffer.concat(parts).toString("utf8");
}

function cachedTokensOf(text: string): number | null {
  const found = /"cached_tokens"\s*:\s*(\d{1,9})\b/.exec(text)?.[1];
  return found === undefined ? null : Number(found);
}
