import { encode } from "@msgpack/msgpack";
import { Router, XPublisher } from "zeromq";

/** An event as it goes on the wire: an array or a map, or what is no event at all. */
export type WireEvent = readonly unknown[] | Readonly<Record<string, unknown>> | number;

export interface TestPublisherOptions {
  /** Where the PUB socket dials (bind mode of the ingester); null: it binds a free port. @defaultValue null */
  readonly dial?: string | null;
  readonly topic?: string;
  /** Serve replays. @defaultValue true */
  readonly replay?: boolean;
  /** Layout of replay messages: `plain` up to vLLM 0.25, `topic` from 0.26 on. @defaultValue "topic" */
  readonly layout?: "plain" | "topic";
  /** Batches kept for replay. @defaultValue 10000 */
  readonly bufferSteps?: number;
  readonly rank?: number;
}

export interface PublishOptions {
  /** Only into the replay buffer, as if the live message had been dropped on the way. */
  readonly lose?: boolean;
  /** Nowhere: a hole for good. */
  readonly vanish?: boolean;
  readonly timestamp?: number;
}

/**
 * PUB and replay ROUTER exactly as vLLM's ZmqEventPublisher has them (`distributed/kv_events.py`), sending what a test says. XPUB is PUB that can be asked who
 * has subscribed: what is published between a connection and its subscription reaches nobody.
 */
export class TestPublisher {
  readonly #options: TestPublisherOptions;
  readonly #pub = new XPublisher({ linger: 0, sendHighWaterMark: 100_000 });
  readonly #router = new Router({ linger: 0, sendHighWaterMark: 0 });
  readonly #buffer: { readonly seq: number; readonly payload: Uint8Array }[] = [];
  #seq = 0;
  /** Engines that are started later have later time stamps. */
  #clock = 1_790_000_000 + process.uptime();
  #subscribers = 0;
  #listening: Promise<void> | null = null;
  #serving: Promise<void> | null = null;
  #muted = false;
  #topic: string;
  #nonsense: readonly (readonly (string | Uint8Array)[])[] = [];
  events = "";
  replay = "";
  /** Start numbers of the replays asked for so far. */
  readonly replayRequests: number[] = [];

  private constructor(options: TestPublisherOptions) {
    this.#options = options;
    this.#topic = options.topic ?? "";
  }

  static async start(options: TestPublisherOptions = {}): Promise<TestPublisher> {
    const publisher = new TestPublisher(options);
    publisher.#pub.verbosity = "allSubs";
    publisher.#listening = publisher.#countSubscriptions();
    if (options.dial === undefined || options.dial === null) {
      await publisher.#pub.bind("tcp://127.0.0.1:*");
      publisher.events = publisher.#pub.lastEndpoint ?? "";
    } else {
      publisher.#pub.connect(options.dial);
    }
    if (options.replay !== false) {
      await publisher.#router.bind("tcp://127.0.0.1:*");
      publisher.replay = publisher.#router.lastEndpoint ?? "";
      publisher.#serving = publisher.#serve();
    }
    return publisher;
  }

  /** Subscriptions that have arrived so far. */
  get subscribers(): number {
    return this.#subscribers;
  }

  get nextSeq(): number {
    return this.#seq;
  }

  async publish(events: readonly WireEvent[], options: PublishOptions = {}): Promise<number> {
    this.#clock += 0.25;
    return this.publishRaw(encode([options.timestamp ?? this.#clock, events, this.#options.rank ?? 0], { useBigInt64: true }), options);
  }

  async publishRaw(payload: Uint8Array, options: PublishOptions = {}): Promise<number> {
    const seq = this.#seq++;
    if (options.vanish === true) return seq;
    this.#buffer.push({ seq, payload });
    if (this.#buffer.length > (this.#options.bufferSteps ?? 10_000)) this.#buffer.shift();
    if (options.lose !== true) await this.#pub.send([this.#topic, seqFrame(seq), payload]);
    return seq;
  }

  /** Any frames at all. */
  async sendFrames(frames: readonly (string | Uint8Array)[]): Promise<void> {
    await this.#pub.send([...frames]);
  }

  /** What a restart in place does: numbers from 0, an empty buffer. The sockets stay. */
  restart(): void {
    this.#seq = 0;
    this.#buffer.length = 0;
  }

  /** What it sends from here on has another topic. */
  rename(topic: string): void {
    this.#topic = topic;
  }

  /** Replay requests are read and not answered. */
  muteReplay(muted: boolean): void {
    this.#muted = muted;
  }

  /** The next replay begins with these messages. */
  answerFirst(messages: readonly (readonly (string | Uint8Array)[])[]): void {
    this.#nonsense = messages;
  }

  async close(): Promise<void> {
    this.#pub.close();
    this.#router.close();
    await Promise.all([this.#listening, this.#serving]);
  }

  async #countSubscriptions(): Promise<void> {
    while (!this.#pub.closed) {
      try {
        const [message] = await this.#pub.receive();
        if (message?.[0] === 1) this.#subscribers += 1;
      } catch (error) {
        if (!this.#pub.closed) throw error;
      }
    }
  }

  async #serve(): Promise<void> {
    const empty = new Uint8Array(0);
    const middle = this.#options.layout === "plain" ? [] : [this.#topic];
    const lastMiddle = this.#options.layout === "plain" ? [] : [empty];
    while (!this.#router.closed) {
      try {
        const frames = await this.#router.receive();
        const [identity, , start] = frames;
        if (frames.length !== 3 || identity === undefined || start === undefined) continue;
        const from = Number(start.readBigUInt64BE());
        this.replayRequests.push(from);
        if (this.#muted) continue;
        for (const message of this.#nonsense) await this.#router.send([identity, ...message]);
        this.#nonsense = [];
        for (const { seq, payload } of this.#buffer.filter((batch) => batch.seq >= from)) {
          await this.#router.send([identity, empty, ...middle, seqFrame(seq), payload]);
        }
        await this.#router.send([identity, empty, ...lastMiddle, new Uint8Array(8).fill(0xff), empty]);
      } catch (error) {
        if (this.#router.closed) return;
        throw error;
      }
    }
  }
}

/** Eight bytes, big-endian. */
export function seqFrame(seq: number): Buffer {
  const frame = Buffer.alloc(8);
  frame.writeBigUInt64BE(BigInt(seq));
  return frame;
}
