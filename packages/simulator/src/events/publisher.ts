import type { Clock } from "@kvatlas/shared/clock";
import { KvatlasError } from "@kvatlas/shared/errors";
import type { Logger } from "@kvatlas/shared/logger";
import { Publisher as PubSocket, Router as RouterSocket } from "zeromq";
import type { PoolEvent } from "../engine/pool-events.ts";
import { bindsEndpoint, localEndpoint } from "./endpoint.ts";
import type { EventEncoder } from "./event-encoder.ts";
import { ReplayBuffer } from "./replay-buffer.ts";

export interface PublisherOptions {
  /** Of this rank; bound or dialled as vLLM decides. */
  readonly endpoint: string;
  /** Of this rank, always bound; null: no replay. */
  readonly replayEndpoint: string | null;
  readonly topic: string;
  readonly rank: number;
  /** Batches kept for replay. */
  readonly bufferSteps: number;
  /** Messages a slow subscriber may lag before it loses some. */
  readonly highWaterMark: number;
  /** Batches waiting to be sent; a full queue stops the engine. */
  readonly maxQueueSize: number;
  readonly hasReplayTopic: boolean;
  readonly hasReplayHighWaterMark: boolean;
}

/** What can go wrong with a publisher on purpose. All off at the start and after `restart`. */
export interface PublisherFaults {
  /** Batches that are buffered but not sent live: a subscriber sees a gap that replay can fill. */
  dropNext: number;
  /** Batches that take a sequence number and vanish: a gap that replay cannot fill. */
  loseNext: number;
  /** Nothing is sent, replays included; batches queue up. */
  paused: boolean;
  /** Replay requests are read and never answered. */
  replayHang: boolean;
  /** Messages of one replay answer before the rest, end marker included, is lost; null: no limit. */
  replayLimit: number | null;
}

interface QueuedBatch {
  readonly timestampSeconds: number;
  readonly events: readonly PoolEvent[];
}

const endOfReplay = Buffer.alloc(8, 0xff);
const empty = Buffer.alloc(0);
/** A client repeats its request when it hears nothing; older ones beyond this many are not worth an answer. */
const maxWaitingReplays = 256;

/**
 * The ZMQ side of one engine: a PUB socket with numbered batches and a ROUTER socket that replays them
 * (vLLM 0.10 to 0.33 `distributed/kv_events.py: ZmqEventPublisher`). One loop serves both, so a replay holds up live batches.
 */
export class EventPublisher {
  readonly faults: PublisherFaults = { dropNext: 0, loseNext: 0, paused: false, replayHang: false, replayLimit: null };
  readonly #clock: Clock;
  readonly #logger: Logger;
  readonly #encoder: EventEncoder;
  readonly #options: PublisherOptions;
  readonly #buffer: ReplayBuffer;
  #queue: QueuedBatch[] = [];
  #replayRequests: { readonly identity: Buffer; readonly start: number }[] = [];
  #nextSequence = 0;
  #sending = false;
  #pub: PubSocket | null = null;
  #router: RouterSocket | null = null;
  #endpoint: string;
  #replayEndpoint: string | null;
  #wake: () => void = () => {};
  #room: (() => void)[] = [];
  #drained: (() => void)[] = [];
  #loop: Promise<void> | null = null;
  #closing: Promise<void> | null = null;
  #isClosed = false;

  constructor(deps: { readonly clock: Clock; readonly logger: Logger; readonly encoder: EventEncoder }, options: PublisherOptions) {
    this.#clock = deps.clock;
    this.#logger = deps.logger;
    this.#encoder = deps.encoder;
    this.#options = options;
    this.#buffer = new ReplayBuffer(options.bufferSteps);
    this.#endpoint = options.endpoint;
    this.#replayEndpoint = options.replayEndpoint;
  }

  /** Where a subscriber on this machine dials, with the port that was picked; the configured endpoint where the publisher dials. */
  get endpoint(): string {
    return this.#endpoint;
  }

  get replayEndpoint(): string | null {
    return this.#replayEndpoint;
  }

  /** Sequence number of the next batch. */
  get nextSequence(): number {
    return this.#nextSequence;
  }

  /** True while the queue is full: the engine must wait (`whenRoom`) before its next step, as vLLM's does. */
  get isFull(): boolean {
    return this.#queue.length >= this.#options.maxQueueSize;
  }

  /** Batches that have not been handed to ZMQ yet. */
  get queued(): number {
    return this.#queue.length + (this.#sending ? 1 : 0);
  }

  /** @throws KVATLAS_PORT_IN_USE */
  async start(): Promise<void> {
    await this.#open();
    this.#loop = this.#run();
  }

  publish(events: readonly PoolEvent[]): void {
    if (this.#isClosed) return;
    this.#queue.push({ timestampSeconds: this.#clock.now() / 1000, events });
    this.#wake();
  }

  whenRoom(): Promise<void> {
    if (!this.isFull || this.#isClosed) return Promise.resolve();
    return new Promise((resolve) => this.#room.push(resolve));
  }

  /** Resolves when every published batch has been handed to ZMQ. */
  whenDrained(): Promise<void> {
    if ((this.#queue.length === 0 && !this.#sending) || this.#isClosed) return Promise.resolve();
    return new Promise((resolve) => this.#drained.push(resolve));
  }

  /** To be called after a change of `faults`. */
  faultsChanged(): void {
    this.#wake();
  }

  /** As a restarted process: numbers from 0, nothing buffered, no faults. The sockets stay, or are closed and opened again. */
  async restart(options: { readonly reopenSockets: boolean }): Promise<void> {
    this.#queue = [];
    this.#replayRequests = [];
    this.#buffer.clear();
    this.#nextSequence = 0;
    Object.assign(this.faults, { dropNext: 0, loseNext: 0, paused: false, replayHang: false, replayLimit: null });
    this.#releaseWaiters();
    if (options.reopenSockets) {
      this.#closeSockets();
      await this.#open();
    }
    this.#wake();
  }

  /** Sends what is queued, for at most a second, then closes without lingering. */
  close(): Promise<void> {
    this.#closing ??= (async () => {
      if (this.#loop !== null && !this.faults.paused) {
        let timer: NodeJS.Timeout | undefined;
        const deadline = new Promise<void>((resolve) => {
          timer = setTimeout(resolve, 1000);
        });
        await Promise.race([this.whenDrained(), deadline]);
        clearTimeout(timer);
      }
      this.#isClosed = true;
      this.#releaseWaiters();
      this.#wake();
      this.#closeSockets();
      await this.#loop;
    })();
    return this.#closing;
  }

  async #open(): Promise<void> {
    const { endpoint, replayEndpoint, highWaterMark, bufferSteps, hasReplayHighWaterMark } = this.#options;
    const pub = new PubSocket({ linger: 0, sendHighWaterMark: highWaterMark });
    this.#pub = pub;
    if (bindsEndpoint(endpoint)) {
      // Once a free port has been picked it is kept over restarts.
      const bound = await bind(pub, portOf(endpoint, this.#endpoint), "the event endpoint");
      this.#endpoint = localEndpoint(endpoint, bound);
    } else {
      pub.connect(endpoint);
    }
    if (replayEndpoint === null) return;
    const router = new RouterSocket({ linger: 0, ...(hasReplayHighWaterMark ? { sendHighWaterMark: 2 * (bufferSteps + 1) } : {}) });
    this.#router = router;
    const bound = await bind(router, portOf(replayEndpoint, this.#replayEndpoint ?? replayEndpoint), "the replay endpoint");
    this.#replayEndpoint = localEndpoint(replayEndpoint, bound);
    void this.#readReplayRequests(router);
  }

  /** No unbind: zeromq.js 6 runs it on another thread while this one polls the socket, on which libzmq aborts the process. */
  #closeSockets(): void {
    const sockets = [this.#pub, this.#router];
    this.#pub = null;
    this.#router = null;
    for (const socket of sockets) socket?.close();
  }

  async #readReplayRequests(router: RouterSocket): Promise<void> {
    try {
      for await (const frames of router) {
        const [identity, , start] = frames;
        if (frames.length !== 3 || identity === undefined || start === undefined || start.length !== 8) {
          this.#logger.warn({ frames: frames.length }, "replay request ignored: expected 3 frames, the last of 8 bytes");
          continue;
        }
        if (this.faults.replayHang || this.#replayRequests.length >= maxWaitingReplays) continue;
        this.#replayRequests.push({ identity, start: Number(start.readBigUInt64BE()) });
        this.#wake();
      }
    } catch (error) {
      if (this.#router === router) this.#logger.error({ err: error }, "replay socket failed");
    }
  }

  async #run(): Promise<void> {
    while (!this.#isClosed) {
      const request = this.faults.paused ? undefined : this.#replayRequests.shift();
      const batch = this.faults.paused ? undefined : this.#queue.shift();
      if (request === undefined && batch === undefined) {
        if (this.#queue.length === 0) for (const resolve of this.#drained.splice(0)) resolve();
        await new Promise<void>((resolve) => {
          this.#wake = resolve;
        });
        continue;
      }
      this.#sending = true;
      try {
        if (request !== undefined) await this.#replay(request.identity, request.start);
        if (batch !== undefined) await this.#send(batch);
      } catch (error) {
        if (!this.#isClosed) this.#logger.warn({ err: error }, "batch was not sent");
      }
      this.#sending = false;
      if (!this.isFull) for (const resolve of this.#room.splice(0)) resolve();
    }
  }

  async #send(batch: QueuedBatch): Promise<void> {
    const sequence = this.#nextSequence++;
    if (this.faults.loseNext > 0) {
      this.faults.loseNext -= 1;
      return;
    }
    const payload = this.#encoder.encode(batch.timestampSeconds, batch.events, this.#options.rank);
    this.#buffer.push({ sequence, payload });
    if (this.faults.dropNext > 0) {
      this.faults.dropNext -= 1;
      return;
    }
    await this.#pub?.send([this.#options.topic, sequenceFrame(sequence), payload]);
  }

  async #replay(identity: Buffer, start: number): Promise<void> {
    const topic = this.#options.hasReplayTopic;
    let left = this.faults.replayLimit ?? Number.POSITIVE_INFINITY;
    for (const { sequence, payload } of this.#buffer.from(start)) {
      if (this.#router === null || left <= 0) return;
      left -= 1;
      await this.#router.send([identity, empty, ...(topic ? [this.#options.topic] : []), sequenceFrame(sequence), payload]);
    }
    if (left > 0) await this.#router?.send([identity, empty, ...(topic ? [empty] : []), endOfReplay, empty]);
  }

  #releaseWaiters(): void {
    for (const resolve of [...this.#room.splice(0), ...this.#drained.splice(0)]) resolve();
  }
}

function sequenceFrame(sequence: number): Buffer {
  const frame = Buffer.allocUnsafe(8);
  frame.writeUInt32BE(Math.floor(sequence / 0x1_0000_0000), 0);
  frame.writeUInt32BE(sequence % 0x1_0000_0000, 4);
  return frame;
}

/** The configured endpoint, with the port picked earlier in place of port 0. */
function portOf(configured: string, resolved: string): string {
  if (!/^tcp:\/\/.+:0$/.test(configured) || resolved === configured) return configured;
  return `${configured.slice(0, -2)}${resolved.slice(resolved.lastIndexOf(":"))}`;
}

/** Closed sockets give their port back some time later, on libzmq's own thread: how long to wait for it, milliseconds. */
const portReleaseMs = 1000;
const bindRetryMs = 10;

/** @throws KVATLAS_PORT_IN_USE */
async function bind(socket: PubSocket | RouterSocket, endpoint: string, what: string): Promise<string> {
  for (let waitedMs = 0; ; waitedMs += bindRetryMs) {
    try {
      await socket.bind(endpoint);
      return socket.lastEndpoint ?? endpoint;
    } catch (error) {
      const isInUse = error instanceof Error && "code" in error && error.code === "EADDRINUSE";
      if (isInUse && waitedMs < portReleaseMs && !socket.closed) {
        await new Promise((resolve) => setTimeout(resolve, bindRetryMs));
        continue;
      }
      throw new KvatlasError(
        "KVATLAS_PORT_IN_USE",
        `cannot bind ${what} ${endpoint}: ${error instanceof Error ? error.message : String(error)}. Choose another port (0 picks a free one).`,
        { cause: error },
      );
    }
  }
}
