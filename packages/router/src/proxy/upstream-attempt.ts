import type { Dispatcher } from "undici";

/** What became of an attempt, told to its owner. After `detach` nothing is told any more. */
export interface AttemptListener {
  /** Status line and headers of the final answer. Returns false to pause. */
  onHead(status: number, statusText: string, rawHeaders: readonly Buffer[]): boolean;
  /** One piece of the body as it came from the socket. Returns false to pause. */
  onData(chunk: Buffer): boolean;
  /** The answer is complete, by its own framing. */
  onComplete(): void;
  onError(error: Error): void;
}

/**
 * One request to one replica: undici's raw handler, which costs neither a stream nor a promise per request.
 * It may be given up at any moment, also before there is a connection.
 */
export class UpstreamAttempt implements Dispatcher.DispatchHandler {
  #listener: AttemptListener | null;
  #abort: ((error?: Error) => void) | null = null;
  #resume: (() => void) | null = null;
  #givenUp: Error | null = null;
  #connected = false;

  constructor(listener: AttemptListener) {
    this.#listener = listener;
  }

  /** The request has been given to a connection. */
  get connected(): boolean {
    return this.#connected;
  }

  /** Goes on after a pause. */
  resume(): void {
    this.#resume?.();
  }

  /** Closes the connection to the replica, at once or as soon as there is one; the listener hears no more. */
  giveUp(reason: Error): void {
    this.#listener = null;
    if (this.#givenUp !== null) return;
    this.#givenUp = reason;
    this.#abort?.(reason);
  }

  onConnect(abort: (error?: Error) => void): void {
    this.#connected = true;
    this.#abort = abort;
    if (this.#givenUp !== null) abort(this.#givenUp);
  }

  onHeaders(status: number, rawHeaders: Buffer[], resume: () => void, statusText: string): boolean {
    if (status < 200) return true;
    this.#resume = resume;
    return this.#listener?.onHead(status, statusText, rawHeaders) ?? true;
  }

  onData(chunk: Buffer): boolean {
    return this.#listener?.onData(chunk) ?? true;
  }

  onComplete(): void {
    const listener = this.#listener;
    this.#listener = null;
    this.#abort = null;
    listener?.onComplete();
  }

  onError(error: Error): void {
    const listener = this.#listener;
    this.#listener = null;
    this.#abort = null;
    listener?.onError(error);
  }
}
