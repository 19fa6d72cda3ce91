import type { Clock } from "@kvatlas/shared/clock";
import type { EngineFrame } from "../subscriber/frame.ts";
import type { EventApplier } from "./event-applier.ts";
import { StreamPosition } from "./stream-position.ts";

/** The one way by which batches, live and replayed, are taken in: the stream's position moves with the applier. */
export class StreamIntake {
  readonly position = new StreamPosition();
  readonly #applier: EventApplier;
  readonly #clock: Clock;
  #takenAt = Number.NEGATIVE_INFINITY;
  #beganAnewAt = Number.NEGATIVE_INFINITY;

  constructor(applier: EventApplier, clock: Clock) {
    this.#applier = applier;
    this.#clock = clock;
  }

  /** Monotonic ms at which the batch last taken in was received. */
  get takenAt(): number {
    return this.#takenAt;
  }

  /** Monotonic ms at which the stream last showed an empty cache: a batch told of a cleared one, or another run of the engine was found. */
  get beganAnewAt(): number {
    return this.#beganAnewAt;
  }

  /** Another run of the engine. */
  reset(): void {
    this.position.reset();
    this.#beganAnewAt = this.#clock.monotonic();
  }

  /** `receivedAt`: monotonic ms; null for a replayed batch. The promise, when there is one, resolves when the next may be taken. */
  take(frame: EngineFrame, receivedAt: number | null): Promise<void> | undefined {
    this.#takenAt = receivedAt ?? this.#clock.monotonic();
    const { clears } = this.#applier;
    const taken = this.#applier.take(frame.seq, frame.payload, receivedAt);
    if (this.#applier.clears > clears) this.#beganAnewAt = this.#takenAt;
    this.position.taken(frame.seq, this.#applier.lastTaken);
    return taken;
  }
}
