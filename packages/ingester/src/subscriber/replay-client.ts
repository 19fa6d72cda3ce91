import type { Logger } from "@kvatlas/shared/logger";
import { Dealer } from "zeromq";
import { type EngineFrame, parseReplayMessage, writeSeq } from "./frame.ts";

export interface ReplayHandlers {
  /** Each replayed batch at or above the number asked for, each once, ascending. Waited for before the next one. */
  readonly onFrame: (frame: EngineFrame) => Promise<"continue" | "stop">;
  /**
   * Batch `expected` is not there, the next one is `found`. Not confirmed: it may have been lost on the way (a ROUTER drops above its high-water
   * mark); `retry` asks again on a fresh socket. Confirmed: a second request gave the same. `accept` goes on with `found`.
   */
  readonly onHole: (expected: number, found: number, confirmed: boolean) => Promise<"accept" | "retry" | "stop">;
}

export interface ReplayDeps {
  readonly logger: Logger;
  /** A message of the reply cannot be read, or was not asked for. */
  readonly onUseless?: () => void;
}

export type ReplayOutcome =
  /** The publisher has sent all it has; `next` is the number after the last one (or the one asked for). */
  | { readonly kind: "complete"; readonly next: number; readonly frames: number }
  | { readonly kind: "stopped"; readonly frames: number }
  /** No answer, or none to the end, after every attempt. */
  | { readonly kind: "silent"; readonly next: number; readonly frames: number };

export interface ReplayOptions {
  /** Silence after which the replay is asked again on a fresh socket. */
  readonly silenceMs: number;
  /** Attempts in a row that bring nothing new before giving up. */
  readonly maxAttempts: number;
  /** Replayed bytes that may wait for the pipeline; past it the socket is closed and the rest asked for later. */
  readonly maxBufferedBytes: number;
  readonly signal: AbortSignal;
}

/** Messages in one reply that cannot be read or are older than what was asked for: past it nobody sensible is answering. */
const maxUseless = 10_000;

interface Attempt {
  readonly end: "complete" | "silent" | "hole" | "full" | "stopped";
  readonly next: number;
  readonly frames: number;
}

/**
 * Asks a publisher for its buffered batches from `from` on (vLLM 0.10 to 0.33: ROUTER socket, request `["", seq]`, both reply layouts).
 *
 * The reply is checked for contiguity. A hole or silence means a fresh DEALER that asks from the next expected number: a replay served to a
 * slow reader loses batches and even the end marker silently (no send high-water mark on the ROUTER up to 0.32). The socket itself has
 * no receive limit for the same reason; what has been received waits in a bounded buffer.
 */
export async function replay(
  handlers: ReplayHandlers,
  deps: ReplayDeps,
  address: string,
  from: number,
  options: ReplayOptions,
): Promise<ReplayOutcome> {
  let next = from;
  let frames = 0;
  let barren = 0;
  let holeAt = -1;
  while (!options.signal.aborted) {
    const attempt = await ask(handlers, deps, address, next, holeAt, options);
    frames += attempt.frames;
    if (attempt.end === "complete") return { kind: "complete", next: attempt.next, frames };
    if (attempt.end === "stopped") return { kind: "stopped", frames };
    barren = attempt.next > next ? 0 : barren + 1;
    holeAt = attempt.end === "hole" ? attempt.next : -1;
    next = attempt.next;
    if (barren >= options.maxAttempts) return { kind: "silent", next, frames };
    deps.logger.debug({ address, next, reason: attempt.end }, "asking for the rest of the replay on a fresh socket");
  }
  return { kind: "stopped", frames };
}

/** One request on one socket. `confirmedHoleAt`: a hole at this number has been seen before. */
async function ask(
  handlers: ReplayHandlers,
  deps: ReplayDeps,
  address: string,
  from: number,
  confirmedHoleAt: number,
  options: ReplayOptions,
): Promise<Attempt> {
  const socket = new Dealer({ linger: 0, receiveHighWaterMark: 0, receiveTimeout: options.silenceMs, ipv6: address.includes("[") });
  const close = (): void => {
    if (!socket.closed) socket.close();
  };
  options.signal.addEventListener("abort", close);
  const buffer = new ReplayBuffer(options.maxBufferedBytes);
  const reading = read(socket, deps, address, from, buffer).finally(close);
  let next = from;
  let frames = 0;
  let end: Attempt["end"] | null = null;
  try {
    for (;;) {
      const frame = await buffer.take();
      if (frame === null) break;
      if (frame.seq < next) continue;
      if (frame.seq > next) {
        const answer = await handlers.onHole(next, frame.seq, confirmedHoleAt === next);
        if (answer !== "accept") {
          end = answer === "retry" ? "hole" : "stopped";
          break;
        }
      }
      const verdict = await handlers.onFrame(frame);
      next = frame.seq + 1;
      frames++;
      if (verdict === "stop") {
        end = "stopped";
        break;
      }
    }
  } finally {
    close();
    options.signal.removeEventListener("abort", close);
  }
  const readEnd = await reading;
  if (options.signal.aborted) return { end: "stopped", next, frames };
  return { end: end ?? readEnd, next, frames };
}

/** Fills the buffer until the end marker, silence, or the buffer's bound. */
async function read(
  socket: Dealer,
  deps: ReplayDeps,
  address: string,
  from: number,
  buffer: ReplayBuffer,
): Promise<"complete" | "silent" | "full"> {
  let useless = 0;
  try {
    socket.connect(address);
    await socket.send([new Uint8Array(0), writeSeq(from)]);
    while (!socket.closed) {
      const message = parseReplayMessage(await socket.receive());
      if (message === "end") return "complete";
      if (message === null || message.seq < from) {
        deps.onUseless?.();
        if (useless === 0) deps.logger.warn({ address, from }, "a replay message was not understood or not asked for, and is passed over");
        if (++useless > maxUseless) return "silent";
        continue;
      }
      if (!buffer.push(message)) return "full";
    }
    return "silent";
  } catch (error) {
    // EAGAIN is the time-out; a closed socket ends the wait as well.
    deps.logger.debug({ err: error, address, from }, "replay stopped answering");
    return "silent";
  } finally {
    buffer.end();
  }
}

/** Frames between the socket and the pipeline, bounded by bytes; one consumer. */
class ReplayBuffer {
  readonly #maxBytes: number;
  readonly #frames: EngineFrame[] = [];
  #head = 0;
  #bytes = 0;
  #ended = false;
  #wake: (() => void) | null = null;

  constructor(maxBytes: number) {
    this.#maxBytes = maxBytes;
  }

  /** False when the frame did not fit; the buffer never refuses its only frame. */
  push(frame: EngineFrame): boolean {
    if (this.#bytes > 0 && this.#bytes + frame.payload.byteLength > this.#maxBytes) return false;
    this.#frames.push(frame);
    this.#bytes += frame.payload.byteLength;
    this.#wake?.();
    return true;
  }

  end(): void {
    this.#ended = true;
    this.#wake?.();
  }

  /** The next frame; null after the last one. */
  async take(): Promise<EngineFrame | null> {
    for (;;) {
      const frame = this.#frames[this.#head];
      if (frame !== undefined) {
        this.#head++;
        this.#bytes -= frame.payload.byteLength;
        if (this.#head === this.#frames.length) {
          this.#frames.length = 0;
          this.#head = 0;
        } else if (this.#head >= 1_024) {
          this.#frames.splice(0, this.#head);
          this.#head = 0;
        }
        return frame;
      }
      if (this.#ended) return null;
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
      this.#wake = null;
    }
  }
}
