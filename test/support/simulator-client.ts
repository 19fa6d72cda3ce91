import { decodeEventBatch } from "@kvatlas/shared/events/vllm-decoder";
import { Dealer, Subscriber } from "zeromq";

/** One event message as it arrived. */
export interface ReceivedBatch {
  readonly topic: string;
  readonly sequence: number;
  readonly payload: Buffer;
}

/** A subscriber that keeps every batch and can wait for a condition over them. */
export class EventCollector {
  readonly batches: ReceivedBatch[] = [];
  readonly #socket = new Subscriber({ receiveHighWaterMark: 0, linger: 0 });
  #waiters: { readonly isMet: () => boolean; readonly resolve: () => void }[] = [];

  constructor(options: { readonly connect?: string; readonly topic?: string }) {
    if (options.connect !== undefined) this.#socket.connect(options.connect);
    this.#socket.subscribe(options.topic ?? "");
    if (options.connect !== undefined) void this.#read();
  }

  /** Binds instead of connecting; answers with the endpoint, port filled in. */
  async bind(endpoint: string): Promise<string> {
    // Reading starts afterwards: zeromq.js binds on another thread, and a socket must not be polled meanwhile.
    await this.#socket.bind(endpoint);
    void this.#read();
    return this.#socket.lastEndpoint ?? endpoint;
  }

  /** Resolves when the condition holds, checked after every batch. */
  until(isMet: () => boolean, what: string, timeoutMs = 10_000): Promise<void> {
    if (isMet()) return Promise.resolve();
    return new Promise((resolve, reject) => {
      const timer = setTimeout(
        () => reject(new Error(`${what}: not within ${timeoutMs} ms; ${this.batches.length} batches came`)),
        timeoutMs,
      );
      this.#waiters.push({
        isMet,
        resolve: () => {
          clearTimeout(timer);
          resolve();
        },
      });
    });
  }

  /** Block hash -> copies after all batches, or after those that are given. */
  copies(batches: readonly ReceivedBatch[] = this.batches): Record<string, number> {
    const copies = new Map<string, number>();
    for (const { payload } of batches) {
      for (const event of decodeEventBatch(payload).events) {
        if (event.kind === "cleared") copies.clear();
        else if (event.kind === "stored") for (const hash of event.hashes) copies.set(hash, (copies.get(hash) ?? 0) + 1);
        else {
          for (const hash of event.hashes) {
            const left = (copies.get(hash) ?? 0) - 1;
            if (left > 0) copies.set(hash, left);
            else copies.delete(hash);
          }
        }
      }
    }
    return Object.fromEntries(copies);
  }

  close(): void {
    this.#socket.close();
  }

  async #read(): Promise<void> {
    for await (const [topic, sequence, payload] of this.#socket) {
      if (topic === undefined || sequence === undefined || payload === undefined) continue;
      this.batches.push({ topic: topic.toString(), sequence: Number(sequence.readBigUInt64BE()), payload });
      this.#waiters = this.#waiters.filter((waiter) => {
        if (!waiter.isMet()) return true;
        waiter.resolve();
        return false;
      });
    }
  }
}

/** Asks for a replay and reads it to its end marker, or until nothing comes for `silenceMs`. Frames as a DEALER sees them. */
export async function replayFrames(
  endpoint: string,
  start: number,
  silenceMs = 2000,
): Promise<{ readonly frames: Buffer[][]; readonly ended: boolean }> {
  const dealer = new Dealer({ receiveHighWaterMark: 0, linger: 0, receiveTimeout: silenceMs });
  dealer.connect(endpoint);
  const request = Buffer.alloc(8);
  request.writeBigUInt64BE(BigInt(start));
  await dealer.send(["", request]);
  const frames: Buffer[][] = [];
  try {
    for (;;) {
      const message = (await dealer.receive()) as Buffer[];
      frames.push(message);
      const sequence = message.at(-2);
      if (message.at(-1)?.length === 0 && sequence !== undefined && sequence.equals(Buffer.alloc(8, 0xff))) return { frames, ended: true };
    }
  } catch {
    return { frames, ended: false };
  } finally {
    dealer.close();
  }
}
