import type { EngineFrame } from "./frame.ts";

export interface QueuedFrame extends EngineFrame {
  /** Monotonic ms. */
  readonly receivedAt: number;
}

/**
 * Undecoded frames of one endpoint between its socket, which is always drained, and the pipeline, which may be slow.
 * Bounded by bytes: past the bound the newest frames are dropped, because the older ones keep the order whole and the dropped ones can be
 * replayed; `takeOverflow` tells the consumer that a replay is due.
 */
export class FrameQueue {
  readonly #maxBytes: number;
  #frames: (QueuedFrame | undefined)[] = [];
  #head = 0;
  #bytes = 0;
  #overflowed = false;
  #onPush: (() => void) | null = null;
  #dropped = 0;
  #pushedAt = Number.NEGATIVE_INFINITY;

  constructor(maxBytes: number) {
    this.#maxBytes = maxBytes;
  }

  get length(): number {
    return this.#frames.length - this.#head;
  }

  get bytes(): number {
    return this.#bytes;
  }

  /** Frames dropped so far. */
  get dropped(): number {
    return this.#dropped;
  }

  /** Monotonic ms of the newest frame, kept or dropped. */
  get pushedAt(): number {
    return this.#pushedAt;
  }

  /** Called after each push; one listener. */
  onPush(listener: (() => void) | null): void {
    this.#onPush = listener;
  }

  push(frame: QueuedFrame): void {
    this.#pushedAt = frame.receivedAt;
    // A frame larger than the whole bound is let through alone, so that it cannot block its stream for ever.
    if (this.#bytes + frame.payload.byteLength > this.#maxBytes && this.length > 0) {
      this.#overflowed = true;
      this.#dropped++;
    } else {
      this.#frames.push(frame);
      this.#bytes += frame.payload.byteLength;
    }
    this.#onPush?.();
  }

  shift(): QueuedFrame | undefined {
    const frame = this.#frames[this.#head];
    if (frame === undefined) return undefined;
    this.#frames[this.#head++] = undefined;
    this.#bytes -= frame.payload.byteLength;
    if (this.#head === this.#frames.length) {
      this.#frames = [];
      this.#head = 0;
    } else if (this.#head >= 1024 && this.#head * 2 >= this.#frames.length) {
      this.#frames = this.#frames.slice(this.#head);
      this.#head = 0;
    }
    return frame;
  }

  /** True once after frames were dropped. */
  takeOverflow(): boolean {
    const overflowed = this.#overflowed;
    this.#overflowed = false;
    return overflowed;
  }

  clear(): void {
    this.#frames = [];
    this.#head = 0;
    this.#bytes = 0;
    this.#overflowed = false;
  }
}
