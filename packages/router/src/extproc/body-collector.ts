import type { BodyBudget } from "../http/read-body.ts";
import { HttpError } from "../request/openai-error.ts";

/** The body of a request as it comes in messages, and its part of what the router may hold of bodies at one time. */
export class BodyCollector {
  readonly #budget: BodyBudget;
  #chunks: Buffer[] = [];
  #bytes = 0;

  constructor(budget: BodyBudget) {
    this.#budget = budget;
  }

  /** @throws HttpError 413 larger than a body may be */
  announce(bytes: number): void {
    const { maxBodyBytes } = this.#budget;
    if (bytes <= maxBodyBytes) return;
    throw new HttpError(
      413,
      `the request body is larger than ${maxBodyBytes} bytes (router.maxBodyBytes): send a smaller one or raise the limit.`,
    );
  }

  /** @throws HttpError 413 as above; 503 too much is held already */
  push(chunk: Buffer | undefined): void {
    if (chunk === undefined || chunk.length === 0) return;
    this.announce(this.#bytes + chunk.length);
    if (!this.#budget.take(chunk.length)) {
      throw new HttpError(503, "the router holds too many request bodies at the moment.", { retryAfterSeconds: 1 });
    }
    this.#bytes += chunk.length;
    this.#chunks.push(chunk);
  }

  get body(): Buffer {
    const [only] = this.#chunks;
    return this.#chunks.length === 1 && only !== undefined ? only : Buffer.concat(this.#chunks, this.#bytes);
  }

  /** May be called more than once. */
  release(): void {
    this.#budget.giveBack(this.#bytes);
    this.#bytes = 0;
    this.#chunks = [];
  }
}
