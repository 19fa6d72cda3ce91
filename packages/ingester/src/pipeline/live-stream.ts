import type { IngesterMetrics } from "../metrics.ts";
import type { FrameQueue, QueuedFrame } from "../subscriber/frame-queue.ts";
import type { EventApplier } from "./event-applier.ts";
import type { ReplayAgenda } from "./replay-agenda.ts";
import type { StreamIntake } from "./stream-intake.ts";
import type { StreamRecovery } from "./stream-recovery.ts";
import type { TwinWatch } from "./twin-watch.ts";

export interface LiveStreamDeps {
  readonly metrics: IngesterMetrics;
  readonly applier: EventApplier;
  readonly intake: StreamIntake;
  readonly agenda: ReplayAgenda;
  readonly twins: TwinWatch;
  readonly recovery: StreamRecovery;
}

/** Decides by its number what a live batch means, and does what it takes: take it in, pass it over, fill the hole before it, begin a new run. */
export class LiveStream {
  readonly #deps: LiveStreamDeps;

  constructor(deps: LiveStreamDeps) {
    this.#deps = deps;
  }

  async take(frame: QueuedFrame): Promise<void> {
    const { intake, agenda, twins, recovery, applier } = this.#deps;
    const { frames, gaps } = this.#deps.metrics;
    const { position } = intake;
    if (twins.isPaused) {
      frames.inc({ outcome: "two publishers" });
      return;
    }
    agenda.heard();
    let step = position.step(frame.seq);
    if (step.kind === "restart" || (step.kind === "duplicate" && position.isOfAnotherRun(frame))) {
      frames.inc({ outcome: "restart" });
      twins.wentBack(position.live);
      await recovery.restart("its sequence numbers have gone back", "events");
      // Whatever the replay has brought: this frame is above it, or a duplicate. If not, whoever answered is not who has published it.
      step = position.step(frame.seq);
      if (position.isOfAnotherRun(frame)) {
        frames.inc({ outcome: "two publishers" });
        if (twins.sign()) await recovery.leaveAlone();
        return;
      }
    } else if (twins.cameAfter(position.live, frame.seq)) {
      await recovery.leaveAlone();
      return;
    }
    position.live = frame.seq;
    if (step.kind === "duplicate") {
      frames.inc({ outcome: "duplicate" });
      return;
    }
    if (step.kind === "gap") {
      frames.inc({ outcome: "gap" });
      if (!applier.isPristine) gaps.inc({ cause: "live" });
      if (!(await recovery.fillGap(frame.seq))) return;
    } else {
      frames.inc({ outcome: "applied" });
    }
    await intake.take(frame, frame.receivedAt);
  }

  /** Takes in what has been received, up to the first batch that needs more than that: a gap is for the next owner to fill. */
  async drain(queue: FrameQueue, signal: AbortSignal): Promise<void> {
    const { intake } = this.#deps;
    for (let frame = queue.shift(); frame !== undefined && !signal.aborted; frame = queue.shift()) {
      if (intake.position.step(frame.seq).kind !== "apply") return;
      intake.position.live = frame.seq;
      await intake.take(frame, frame.receivedAt);
    }
  }
}
