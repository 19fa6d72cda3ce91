import { Dealer, Subscriber } from "zeromq";
import type { RecordingWriter } from "./recording-writer.ts";

export interface FrameCaptureOptions {
  readonly publisher: string;
  /** A publisher's address to dial, or, with `*` for the host, the address at which publishers dial in. */
  readonly address: string;
  /** Prefix of the topics to hear; "" for all. */
  readonly topic: string;
}

/** Writes every message of one SUB socket as it comes. */
export class FrameCapture {
  readonly #socket = new Subscriber({ linger: 0, receiveHighWaterMark: 0, reconnectInterval: 100, reconnectMaxInterval: 2_000 });
  readonly #writer: RecordingWriter;
  readonly #options: FrameCaptureOptions;
  #draining: Promise<void> = Promise.resolve();
  /** First number heard live, and the one after the last. */
  #firstSeq: number | null = null;
  #nextSeq = 0;
  /** First number that is missing. */
  #hole: number | null = null;

  constructor(writer: RecordingWriter, options: FrameCaptureOptions) {
    this.#writer = writer;
    this.#options = options;
  }

  /** Sequence number from which a replay fills in what the live socket has missed. */
  get replayFrom(): number {
    return this.#hole ?? this.#nextSeq;
  }

  /** Takes note of a replay that ended before number `next`. */
  replayedUntil(next: number): void {
    if (this.#firstSeq === null) this.#nextSeq = next;
    else if (this.#firstSeq > next) this.#hole = next;
  }

  /** Resolves when the publisher has answered, or bound; after `timeoutMs` without an answer all the same, and the socket keeps dialling. */
  async start(timeoutMs: number): Promise<boolean> {
    const { address, topic, publisher } = this.#options;
    const isBound = address.includes("*");
    const handshake = new Promise<boolean>((resolve) => {
      const timer = setTimeout(() => resolve(false), timeoutMs);
      this.#socket.events.on("handshake", () => {
        clearTimeout(timer);
        resolve(true);
      });
    });
    this.#socket.subscribe(topic);
    if (isBound) await this.#socket.bind(address);
    else this.#socket.connect(address);
    this.#draining = this.#drain();
    const isUp = isBound || (await handshake);
    if (isUp) await this.#writer.note(isBound ? "SUB bound" : "SUB connected", { publisher, endpoint: address });
    return isUp;
  }

  async close(): Promise<void> {
    if (this.#socket.closed) return;
    this.#socket.close();
    await this.#draining;
    await this.#writer.note("SUB closed", { publisher: this.#options.publisher });
  }

  #hear(seq: number): void {
    // The first one may come after a start that nobody heard; a smaller one is a restart, which has no hole.
    if (this.#firstSeq !== null && seq > this.#nextSeq) this.#hole ??= this.#nextSeq;
    if (seq < this.#nextSeq && seq === 0) this.#hole = null;
    this.#firstSeq ??= seq;
    this.#nextSeq = seq + 1;
  }

  async #drain(): Promise<void> {
    while (!this.#socket.closed) {
      let frames: Buffer[];
      try {
        frames = await this.#socket.receive();
      } catch {
        return;
      }
      const seq = frames[1];
      if (seq?.length === 8) this.#hear(Number(seq.readBigUInt64BE()));
      await this.#writer.write("frame", { endpoint: "live", publisher: this.#options.publisher, frames: frames.map(toHex) });
    }
  }
}

/**
 * Asks a replay socket for everything from `start` on and writes request and answers. Returns the sequence number after the last one, or null
 * when the end marker did not come before `silenceMs` without a message.
 */
export async function captureReplay(
  writer: RecordingWriter,
  publisher: string,
  address: string,
  start: number,
  silenceMs: number,
): Promise<number | null> {
  const socket = new Dealer({ linger: 0, receiveHighWaterMark: 0, receiveTimeout: silenceMs, sendTimeout: silenceMs });
  try {
    socket.connect(address);
    const seq = Buffer.alloc(8);
    seq.writeBigUInt64BE(BigInt(start));
    const request = [Buffer.alloc(0), seq];
    await writer.write("frame", { endpoint: "replay", publisher, direction: "sent", start, frames: request.map(toHex) });
    await socket.send(request);
    let next = start;
    for (let messages = 1; ; messages++) {
      const frames = await socket.receive();
      await writer.write("frame", { endpoint: "replay", publisher, start, frames: frames.map(toHex) });
      if (frames.at(-1)?.length === 0 && frames.at(-2)?.every((byte) => byte === 0xff)) {
        await writer.note(`replay from ${start}: ${messages} messages`, { publisher });
        return next;
      }
      const last = frames.at(-2);
      if (last?.length === 8) next = Number(last.readBigUInt64BE()) + 1;
    }
  } catch (error) {
    if (!(error instanceof Error && "code" in error && error.code === "EAGAIN")) throw error;
    await writer.note(`replay from ${start}: no end within ${silenceMs} ms of silence`, { publisher });
    return null;
  } finally {
    socket.close();
  }
}

function toHex(frame: Buffer): string {
  return frame.toString("hex");
}
