import type { PrefillFields } from "../disaggregation/hand-over.ts";
import type { FleetEndpoint } from "../fleet/fleet.ts";
import type { Decision } from "../routing/decision.ts";
import { topOf } from "../routing/explain.ts";
import type { AskedRequest, PreparedRequest } from "./prepare-request.ts";

export interface HandledRequest {
  readonly asked: Pick<AskedRequest, "requestId" | "tenant" | "path">;
  /** As the client named it, or the pool's. */
  readonly model: string | null;
  /** These three are null where it did not come so far. */
  readonly resolved: PreparedRequest["resolved"] | null;
  readonly decision: Decision | null;
  /** The endpoint that the request has been sent to last, or would have been. */
  readonly endpoint: FleetEndpoint | null;
}

/** What became of it. */
export interface HandledAnswer {
  /** Null where there was no answer. */
  readonly status: number | null;
  readonly outcome: string;
  readonly totalMs: number;
  /** Since the request came; null when there was no first byte. Of requests that were sent on, as is what follows. */
  readonly firstByteMs?: number | null;
  /** Replicas that it was sent to; of requests that this router has sent itself. */
  readonly attempts?: number;
  /** A gateway has sent it. */
  readonly gateway?: true;
  readonly prefill?: PrefillFields | null;
  /** Why it was refused, in words for the client, or what nobody has foreseen. */
  readonly why?: string;
  readonly err?: unknown;
}

/**
 * What the line `request handled` tells of a request, however it came in and whatever became of it. The first names are those of the reference endpoint picker
 * (Gateway API Inference Extension): what searches its log finds the same here. What is undefined does not appear in the line. Every request logs one: a
 * literal of one shape takes a fraction of the time that spreads take.
 */
export function handledLine({ asked, model, resolved, decision, endpoint }: HandledRequest, answer: HandledAnswer): object {
  const pod = endpoint?.pod;
  const prefill = answer.prefill ?? undefined;
  return {
    "x-request-id": asked.requestId,
    model,
    resolvedTargetModel: resolved === null ? undefined : (resolved.target ?? model),
    criticality: resolved?.criticality,
    tenant: asked.tenant ?? undefined,
    path: asked.path,
    endpoint: endpoint?.id,
    mode: decision?.mode,
    reason: decision?.reason,
    promptTokens: decision?.promptTokens,
    matchedTokens: decision?.matchedTokens,
    matchedBlocks: decision?.matchedBlocks,
    blocks: decision?.blocks,
    top: decision === null ? undefined : topOf(decision),
    division: decision?.division?.outcome,
    timings: decision?.timings,
    pod: pod?.name,
    labels: pod?.labels,
    prefillEndpoint: prefill?.prefillEndpoint,
    prefill: prefill?.prefill,
    prefillAttempts: prefill?.prefillAttempts,
    prefillMs: prefill?.prefillMs,
    status: answer.status,
    outcome: answer.outcome,
    attempts: answer.attempts,
    gateway: answer.gateway,
    firstByteMs: answer.firstByteMs,
    why: answer.why,
    err: answer.err,
    totalMs: answer.totalMs,
  };
}
