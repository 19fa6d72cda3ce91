import type { FleetEndpoint } from "../fleet/fleet.ts";
import type { InflightEntry, InflightTracker } from "../fleet/inflight-tracker.ts";
import type { Decision } from "../routing/decision.ts";
import type { Placement } from "../routing/placement.ts";

/** Bytes of text per token when the prompt was not tokenized: for the in-flight ledger only. */
const bytesPerToken = 4;
/** The most such a guess may be: images in a body are no text. */
const maxGuessedTokens = 32_768;

/** Tokens of the prompt that an endpoint holds, as the decision has it. */
export function matchedBy(decision: Decision, endpoint: FleetEndpoint): number {
  return decision.ranking.find((ranked) => ranked.endpoint === endpoint)?.matchedTokens ?? 0;
}

/**
 * Enters a request into the ledger of the endpoint that it is sent to, and keeps what is remembered of it true.
 *
 * @param bodyBytes - stands in for the tokens where the prompt was not tokenized
 * @param isPrefilled - another endpoint has computed the prompt
 */
export function beginAt(
  inflight: Pick<InflightTracker, "begin">,
  decision: Decision,
  endpoint: FleetEndpoint,
  bodyBytes: number,
  isPrefilled = false,
): InflightEntry {
  const promptTokens = decision.promptTokens ?? Math.min(maxGuessedTokens, Math.ceil(bodyBytes / bytesPerToken));
  decision.placement?.sentTo(endpoint);
  decision.placement?.waits();
  const prefillTokens = isPrefilled ? 0 : promptTokens - matchedBy(decision, endpoint);
  return placing(decision.placement, inflight.begin(endpoint.id, prefillTokens, promptTokens));
}

/** An attempt that ends without a first byte has left nothing in the endpoint's cache. */
function placing(placement: Placement | undefined, entry: InflightEntry): InflightEntry {
  let hasBegun = false;
  return {
    firstByte: () => {
      if (!hasBegun) placement?.answered();
      hasBegun = true;
      entry.firstByte();
    },
    produced: entry.produced,
    end: () => {
      if (!hasBegun) placement?.failed();
      entry.end();
    },
  };
}
