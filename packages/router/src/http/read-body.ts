import type { IncomingMessage } from "node:http";
import { HttpError } from "../request/openai-error.ts";

/** Bytes of request bodies held at one time, over all requests, as a multiple of the largest single one. */
const budgetFactor = 32;
/** A body that is too large is read on and thrown away up to this multiple of the limit, so that the client gets to see the 413. */
const discardFactor = 4;

/** Counts the bytes of bodies that are held, and refuses more than a process can bear. */
export class BodyBudget {
  readonly maxBodyBytes: number;
  readonly #maxTotalBytes: number;
  #heldBytes = 0;

  constructor(maxBodyBytes: number) {
    this.maxBodyBytes = maxBodyBytes;
    this.#maxTotalBytes = maxBodyBytes * budgetFactor;
  }

  get heldBytes(): number {
    return this.#heldBytes;
  }

  take(bytes: number): boolean {
    if (this.#heldBytes + bytes > this.#maxTotalBytes) return false;
    this.#heldBytes += bytes;
    return true;
  }

  giveBack(bytes: number): void {
    this.#heldBytes -= bytes;
  }
}

/** A body and the part of the budget it takes. `release` may be called more than once; after it the bytes are gone. */
export interface HeldBody {
  readonly bytes: Buffer;
  release(): void;
}

const noBytes = Buffer.alloc(0);

/**
 * Collects a request body. Resolves with null when the client left.
 *
 * @throws HttpError 413 larger than `maxBodyBytes`; 503 too much is held already
 */
export function readBody(request: IncomingMessage, budget: BodyBudget): Promise<HeldBody | null> {
  return new Promise((resolve, reject) => {
    const chunks: Buffer[] = [];
    let bytes = 0;
    let held = 0;
    let refused = false;
    const release = () => {
      budget.giveBack(held);
      held = 0;
    };
    const refuse = (error: HttpError) => {
      refused = true;
      chunks.length = 0;
      release();
      reject(error);
    };
    const tooLarge = () =>
      new HttpError(
        413,
        `the request body is larger than ${budget.maxBodyBytes} bytes (router.maxBodyBytes): send a smaller one or raise the limit.`,
      );
    if (Number(request.headers["content-length"] ?? 0) > budget.maxBodyBytes) refuse(tooLarge());
    request.on("data", (chunk: Buffer) => {
      bytes += chunk.length;
      if (refused) {
        if (bytes > budget.maxBodyBytes * discardFactor) request.destroy();
        return;
      }
      if (bytes > budget.maxBodyBytes) {
        refuse(tooLarge());
        return;
      }
      if (!budget.take(chunk.length)) {
        refuse(new HttpError(503, "the router holds too many request bodies at the moment.", { retryAfterSeconds: 1 }));
        return;
      }
      held += chunk.length;
      chunks.push(chunk);
    });
    request.on("end", () => {
      if (refused) return;
      const body = {
        bytes: chunks.length === 1 && chunks[0] !== undefined ? chunks[0] : Buffer.concat(chunks, bytes),
        release: () => {
          body.bytes = noBytes;
          release();
        },
      };
      // The listeners of the request live for as long as the answer takes.
      chunks.length = 0;
      resolve(body);
    });
    const onGone = () => {
      if (refused || request.complete) return;
      refused = true;
      chunks.length = 0;
      release();
      resolve(null);
    };
    request.on("error", onGone);
    request.on("close", onGone);
  });
}
