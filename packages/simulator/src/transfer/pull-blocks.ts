import type { RemoteBlocks } from "./transfer-params.ts";

/** Where a simulator answers other simulators; engines have a side channel of their own for it. */
export const pullPath = "/sim/kv/pull";

/** How long the other engine may take to say that the blocks are there. */
const handshakeTimeoutMs = 5_000;

/** Tokens that the other engine has handed over; null when it is gone, or does not have them (any more). */
export async function pullBlocks(from: RemoteBlocks, signal: AbortSignal): Promise<number | null> {
  try {
    const host = from.host.includes(":") ? `[${from.host}]` : from.host;
    const response = await fetch(`http://${host}:${from.port}${pullPath}`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ engine_id: from.engineId, request_id: from.requestId }),
      signal: AbortSignal.any([signal, AbortSignal.timeout(handshakeTimeoutMs)]),
    });
    if (!response.ok) {
      await response.body?.cancel();
      return null;
    }
    const answer: unknown = await response.json();
    if (typeof answer !== "object" || answer === null || !("tokens" in answer) || typeof answer.tokens !== "number") return null;
    return Math.min(answer.tokens, from.tokens ?? answer.tokens);
  } catch {
    return null;
  }
}
