import type { IncomingMessage, ServerResponse } from "node:http";
import type { FleetEndpoint } from "../fleet/fleet.ts";
import type { InflightEntry, InflightTracker } from "../fleet/inflight-tracker.ts";
import type { RetryBudget } from "../proxy/retry-budget.ts";
import type { Decision } from "../routing/decision.ts";
import type { DisaggregationConfig } from "./division.ts";
import { type PrefillResult, type PrefillStepDeps, prefillAt } from "./prefill-step.ts";
import { decodeBody, prefillBody } from "./step-bodies.ts";

export interface HandOverDeps extends PrefillStepDeps {
  readonly inflight: Pick<InflightTracker, "begin">;
  readonly budget: RetryBudget;
  /** Called once per attempt at a replica for prefill. */
  readonly onPrefill: (result: PrefillResult, ms: number) => void;
  /** The replica told how much of the prompt it had cached. */
  readonly onCached: (endpoint: FleetEndpoint, cachedTokens: number) => void;
}

export type HandOverOptions = Pick<DisaggregationConfig, "prefillTimeoutMs"> & { readonly maxAttempts: number };

/** The first of two steps, as far as it got. */
export interface HandedOver {
  /** Body of the decode step; null where the request is computed as a whole after all. Large: not to be kept longer than it takes to send it. */
  readonly body: Buffer | null;
  /** The replica that has computed the prompt; null when none has. */
  readonly prefill: FleetEndpoint | null;
  readonly result: PrefillResult;
  readonly attempts: number;
  readonly ms: number;
  /** Ends what keeps a place for the answer in the ledger of the replica that decodes. */
  readonly arrived: () => void;
}

/**
 * The prefill step of a divided request: the replicas for prefill are tried in turn while they cannot be reached or fail, within the retry budget. When
 * none of them hands anything over the request is left as it was. Never rejects.
 *
 * Until the decode step arrives its replica counts as busy with an answer, so that the next request sees it coming.
 */
export async function handOver(
  deps: HandOverDeps,
  options: HandOverOptions,
  input: {
    readonly request: IncomingMessage;
    readonly response: ServerResponse;
    readonly requestId: string;
    readonly decision: Decision;
    readonly body: Buffer;
  },
): Promise<HandedOver> {
  const { decision, response } = input;
  const startedAt = deps.clock.monotonic();
  const { prefill: ranking = [], promptTokens = 0, placement } = decision.division ?? {};
  const place = deps.inflight.begin(decision.endpoint.id, 0, promptTokens);
  const over = (result: PrefillResult, attempts: number, prefill: FleetEndpoint | null = null, body: Buffer | null = null): HandedOver => {
    if (body === null) {
      placement?.failed();
      place.end();
    }
    return { body, prefill: body === null ? null : prefill, result, attempts, ms: deps.clock.monotonic() - startedAt, arrived: place.end };
  };
  const text = input.body.toString("utf8");
  const body = prefillBody(text);
  if (body === null) return over("nothing", 0);

  const leaving = new AbortController();
  const leave = (): void => leaving.abort();
  response.once("close", leave);
  if (response.destroyed || response.socket?.destroyed === true) leave();
  const tried = new Set<string>();
  let last: PrefillResult = "unreachable";
  try {
    for (const { endpoint, matchedTokens } of ranking) {
      if (tried.has(endpoint.address)) continue;
      if (tried.size > 0 && (tried.size >= options.maxAttempts || !deps.budget.take())) break;
      tried.add(endpoint.address);
      placement?.sentTo(endpoint);
      const entry: InflightEntry = deps.inflight.begin(endpoint.id, promptTokens - matchedTokens, promptTokens);
      const beganAt = deps.clock.monotonic();
      const timeoutMs = Math.max(1, Math.ceil(options.prefillTimeoutMs - (beganAt - startedAt)));
      const answer = await prefillAt(deps, endpoint, input.request, {
        requestId: input.requestId,
        body,
        timeoutMs,
        leaving: leaving.signal,
      });
      entry.end();
      last = answer.result;
      deps.onPrefill(last, deps.clock.monotonic() - beganAt);
      if (answer.cachedTokens !== null) deps.onCached(endpoint, answer.cachedTokens);
      if (answer.handover !== null) return over(last, tried.size, endpoint, decodeBody(text, answer.handover));
      // What a replica refuses others refuse as well; the one that decodes says so in its own words.
      if (last !== "unreachable" && last !== "failed") break;
    }
    return over(last, tried.size);
  } finally {
    response.off("close", leave);
  }
}

/** What the line that every request logs tells of the first step of a divided one. */
export interface PrefillFields {
  readonly prefillEndpoint: string | null;
  readonly prefill: PrefillResult;
  readonly prefillAttempts: number;
  readonly prefillMs: number;
}

/** A hand-over as the log tells it; without an endpoint where nothing was handed over. */
export function prefillFields({ prefill, result, attempts, ms }: HandedOver): PrefillFields {
  return { prefillEndpoint: prefill?.id ?? null, prefill: result, prefillAttempts: attempts, prefillMs: ms };
}
