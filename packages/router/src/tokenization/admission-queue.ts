import { KvatlasError } from "@kvatlas/shared/errors";

export interface AdmissionQueueOptions {
  /** Jobs that run at once. */
  readonly concurrency: number;
  /** Jobs that may wait. */
  readonly maxQueue: number;
}

interface Waiting {
  readonly start: () => void;
  readonly refuse: (error: KvatlasError) => void;
}

/**
 * First come, first served, with a bound. A caller whose signal aborts leaves at once; a job that has begun goes on to its end
 * and keeps its place, because a thread cannot be interrupted without loading everything again.
 */
export class AdmissionQueue {
  readonly #options: AdmissionQueueOptions;
  readonly #waiting = new Set<Waiting>();
  #running = 0;
  #closed = false;
  #idle: (() => void) | null = null;

  constructor(options: AdmissionQueueOptions) {
    this.#options = options;
  }

  get waiting(): number {
    return this.#waiting.size;
  }

  /** @throws KVATLAS_TOKENIZER_BUSY the queue is full or closed; KVATLAS_DEADLINE_EXCEEDED the signal aborted. */
  async run<T>(job: () => Promise<T>, signal?: AbortSignal): Promise<T> {
    if (signal?.aborted === true) throw cancelled();
    if (this.#closed) throw new KvatlasError("KVATLAS_TOKENIZER_BUSY", "the tokenizer is shutting down");
    if (this.#running >= this.#options.concurrency && this.#waiting.size >= this.#options.maxQueue) {
      throw new KvatlasError(
        "KVATLAS_TOKENIZER_BUSY",
        `${this.#waiting.size} requests wait for a tokenizer thread, at most ${this.#options.maxQueue} may; raise tokenizer.threads or tokenizer.maxQueue`,
      );
    }
    return new Promise<T>((resolve, reject) => {
      const entry: Waiting = {
        start: () => {
          this.#running += 1;
          job()
            .then(resolve, reject)
            .finally(() => {
              signal?.removeEventListener("abort", abort);
              this.#running -= 1;
              this.#next();
            });
        },
        refuse: (error) => {
          signal?.removeEventListener("abort", abort);
          reject(error);
        },
      };
      const abort = (): void => {
        this.#waiting.delete(entry);
        reject(cancelled());
      };
      signal?.addEventListener("abort", abort, { once: true });
      if (this.#running < this.#options.concurrency) entry.start();
      else this.#waiting.add(entry);
    });
  }

  /** Refuses what waits and resolves when what runs has ended. */
  async close(): Promise<void> {
    this.#closed = true;
    for (const entry of this.#waiting) entry.refuse(new KvatlasError("KVATLAS_TOKENIZER_BUSY", "the tokenizer is shutting down"));
    this.#waiting.clear();
    if (this.#running === 0) return;
    await new Promise<void>((resolve) => {
      this.#idle = resolve;
    });
  }

  #next(): void {
    const [first] = this.#waiting;
    if (first !== undefined) {
      this.#waiting.delete(first);
      first.start();
    } else if (this.#running === 0) this.#idle?.();
  }
}

function cancelled(): KvatlasError {
  return new KvatlasError("KVATLAS_DEADLINE_EXCEEDED", "tokenization was cancelled before its result was there");
}
