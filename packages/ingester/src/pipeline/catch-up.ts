import type { Logger } from "@kvatlas/shared/logger";
import type { GapCause, IngesterMetrics, LostCause } from "../metrics.ts";
import type { EngineFrame } from "../subscriber/frame.ts";
import { type ReplayOutcome, replay } from "../subscriber/replay-client.ts";
import type { StreamPosition } from "./stream-position.ts";

export interface CatchUpDeps {
  readonly logger: Logger;
  readonly metrics: IngesterMetrics;
}

/** What a session does with a replay. */
export interface CatchUpHandlers {
  /** Takes a batch in; the position moves with it. */
  readonly take: (frame: EngineFrame) => Promise<void> | undefined;
  /** Whether a hole before the next batch costs nothing. */
  readonly isPristine: () => boolean;
  /** Batches below `next` are lost for good. */
  readonly giveUp: (next: number, cause: LostCause) => Promise<void>;
  /** Something else is more urgent. */
  readonly isInterrupted: () => boolean;
}

export interface CatchUpOptions {
  readonly silenceMs: number;
  readonly maxBufferedBytes: number;
  readonly signal: AbortSignal;
}

export interface CatchUpResult {
  readonly outcome: ReplayOutcome["kind"];
  /** Why the replay is of another run of the engine; null when it is not. */
  readonly otherRun: string | null;
}

/** Attempts in a row without anything new before a replay is given up. */
const maxReplayAttempts = 3;

/**
 * Asks the publisher at `address` for everything from the mark on, so that the reply shows by its first batch whether the engine is still the
 * same, and takes in what is above `applied`.
 */
export async function catchUp(
  deps: CatchUpDeps,
  handlers: CatchUpHandlers,
  options: CatchUpOptions,
  address: string,
  position: StreamPosition,
  cause: GapCause,
): Promise<CatchUpResult> {
  const { metrics, logger } = deps;
  // A look at a quiet stream is no gap until it has found one.
  if (cause !== "live" && cause !== "quiet") metrics.gaps.inc({ cause });
  const mark = position.comparable;
  const from = mark?.seq ?? position.applied + 1;
  let isOtherRun = false;
  let hasMissed = false;
  const outcome = await replay(
    {
      onFrame: async (frame) => {
        if (frame.seq <= position.applied) {
          isOtherRun = position.isOfAnotherRun(frame);
          return isOtherRun ? "stop" : "continue";
        }
        metrics.replayed.inc();
        hasMissed = true;
        await handlers.take(frame);
        return handlers.isInterrupted() ? "stop" : "continue";
      },
      onHole: async (_, found, confirmed) => {
        if (found <= position.applied + 1 || handlers.isPristine()) return "accept";
        if (!confirmed) return "retry";
        await handlers.giveUp(found, "rolled");
        return "accept";
      },
    },
    { logger, onUseless: () => metrics.frames.inc({ outcome: "unusable replay" }) },
    address,
    from,
    { ...options, maxAttempts: maxReplayAttempts },
  );
  metrics.replays.inc({ outcome: outcome.kind });
  if (cause === "quiet" && hasMissed) metrics.gaps.inc({ cause });
  logger.debug({ cause, from, ...outcome }, "replay ended");
  if (isOtherRun) return { outcome: outcome.kind, otherRun: "a replayed batch is not the one that was applied" };
  // A publisher keeps its last batches: when it has nothing from the mark on, it has not come that far (again).
  const hasNothing = outcome.kind === "complete" && mark !== null && outcome.frames === 0;
  return { outcome: outcome.kind, otherRun: hasNothing ? "it has not published so many batches yet" : null };
}

/** Number of the oldest batch from `seq` on that the publisher still has; null when there is none. */
export async function oldestFrom(
  deps: Pick<CatchUpDeps, "logger">,
  options: CatchUpOptions,
  address: string,
  seq: number,
): Promise<number | null | "unanswered"> {
  let oldest: number | null = null;
  const outcome = await replay(
    {
      onFrame: async (frame) => {
        oldest = frame.seq;
        return "stop";
      },
      onHole: async () => "accept",
    },
    deps,
    address,
    seq,
    { ...options, maxAttempts: 1 },
  );
  return outcome.kind === "complete" || oldest !== null ? oldest : "unanswered";
}
