import { KvatlasError } from "./errors.ts";
import type { RedisRole } from "./redis.ts";
import { cancelled, whenReady } from "./redis-deadline.ts";

/** Of a client of the library: whether it is connected, and when that changes. */
interface GatedClient {
  readonly status: string;
  on(event: string, listener: (error: Error) => void): unknown;
  off(event: string, listener: () => void): unknown;
  setMaxListeners(count: number): unknown;
}

export interface RedisGateOptions {
  readonly role: RedisRole;
  /** Longest wait of one call, the wait for the connection included. */
  readonly timeoutMs: number;
  /** For errors. */
  readonly servers: string;
}

/**
 * Lets calls through to a client while it is connected: those of the role `request` fail at once otherwise, others wait. Nothing is queued in the
 * client, where it would outlive its caller.
 */
export class RedisGate {
  readonly #client: GatedClient;
  readonly #options: RedisGateOptions;
  #lastError: string | null = null;
  #isClosed = false;

  constructor(client: GatedClient, options: RedisGateOptions) {
    this.#client = client;
    this.#options = options;
    // Every call that waits listens: as many as there are endpoints.
    client.setMaxListeners(0);
    client.on("error", (error) => {
      this.#lastError = error.message;
    });
    client.on("ready", () => {
      this.#lastError = null;
    });
  }

  /**
   * @returns milliseconds that are left for the answer
   * @throws KVATLAS_REDIS_UNAVAILABLE, KVATLAS_DEADLINE_EXCEEDED
   */
  async pass(signal: AbortSignal | undefined): Promise<number> {
    if (signal?.aborted) throw cancelled(signal);
    if (this.#isClosed) throw this.notConnected();
    const { role, timeoutMs } = this.#options;
    if (this.#client.status === "ready") return timeoutMs;
    if (role === "request") throw this.notConnected();
    const startedAt = performance.now();
    if (!(await whenReady(this.#client, timeoutMs, signal))) throw signal?.aborted ? cancelled(signal) : this.notConnected();
    return Math.max(1, timeoutMs - (performance.now() - startedAt));
  }

  async connected(timeoutMs: number): Promise<boolean> {
    return this.#client.status === "ready" || (await whenReady(this.#client, timeoutMs));
  }

  get isClosed(): boolean {
    return this.#isClosed;
  }

  close(): void {
    this.#isClosed = true;
  }

  notConnected(): KvatlasError {
    if (this.#isClosed) return new KvatlasError("KVATLAS_REDIS_UNAVAILABLE", "The connection to Redis has been closed.");
    const why = this.#lastError === null ? "" : ` (${this.#lastError})`;
    return new KvatlasError(
      "KVATLAS_REDIS_UNAVAILABLE",
      `Not connected to Redis at ${this.#options.servers}${why}; trying again in the background.`,
    );
  }
}
