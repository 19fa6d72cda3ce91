import { KvatlasError } from "@kvatlas/shared/errors";
import type { Logger } from "@kvatlas/shared/logger";
import { Piscina } from "piscina";
import type { TokenizerAnswer, TokenizerTask, TokenizerThreadData } from "./tokenizer-thread.ts";

export interface TokenizerThreadsDeps {
  readonly logger: Logger;
  /** A thread ended by itself; another one takes its place. */
  readonly onThreadEnded: () => void;
  /** A request failed because the thread that it was at ended. */
  readonly onRequestLost: () => void;
  /** Threads end before they are of any use, again and again: these threads are closed. */
  readonly onGivenUp: (error: KvatlasError) => void;
}

export interface TokenizerThreadsOptions {
  readonly threads: number;
  /** Requests a thread works on at once. */
  readonly tasksPerThread: number;
  readonly encoder: TokenizerThreadData["options"];
}

type Prompts = Extract<TokenizerAnswer, { prompts: unknown }>;

/** Threads beyond their number that may end since one last loaded. */
const maxEndedInARow = 4;

/**
 * Worker threads that encode, kept at their number. The pool under it starts no thread in place of one that ends before it is ready, and what waits for that
 * thread would wait for ever: here another one is started until they have ended so often that there is no point.
 */
export class TokenizerThreads {
  readonly #deps: TokenizerThreadsDeps;
  readonly #threads: number;
  readonly #pool: Piscina<TokenizerTask, TokenizerAnswer>;
  #endedInARow = 0;
  #isClosing = false;
  #closing: Promise<void> | null = null;

  constructor(deps: TokenizerThreadsDeps, { threads, tasksPerThread, encoder }: TokenizerThreadsOptions) {
    this.#deps = deps;
    this.#threads = threads;
    const fromSource = import.meta.url.endsWith(".ts");
    const data: TokenizerThreadData = {
      entry: new URL(fromSource ? "./tokenizer-thread.ts" : "./tokenizer-thread.js", import.meta.url).href,
      options: encoder,
    };
    this.#pool = new Piscina<TokenizerTask, TokenizerAnswer>({
      filename: new URL("../../threads/tokenizer.mjs", import.meta.url).href,
      workerData: data,
      minThreads: threads,
      maxThreads: threads,
      idleTimeout: Number.POSITIVE_INFINITY,
      concurrentTasksPerWorker: tasksPerThread,
      // Exact, so that neither a test runner's nor a loader's flags of the parent reach the threads.
      execArgv: fromSource ? ["--conditions=@kvatlas/source"] : [],
    });
    this.#pool.on("error", (error: unknown) => deps.logger.error({ err: error }, "tokenizer thread failed"));
    this.#pool.on("workerDestroy", () => this.#ended());
  }

  /** Resolves when every thread has read the checkpoint. @throws KVATLAS_TOKENIZER_UNAVAILABLE it cannot be read, or threads end again and again. */
  async load(): Promise<void> {
    // As many at once as there are threads: each takes one.
    await Promise.all(Array.from({ length: this.#threads }, () => this.#loadOne()));
  }

  /** @throws KVATLAS_TOKENIZER_UNAVAILABLE the thread ended; or what the encoder throws */
  async run(task: TokenizerTask): Promise<Prompts> {
    if (this.#isClosing) throw ended("the tokenizer's threads are closed");
    let answer: TokenizerAnswer;
    try {
      answer = await this.#pool.run(task);
    } catch (error) {
      this.#deps.onRequestLost();
      throw ended(`a tokenizer thread ended while it encoded: ${String(error)}`, error);
    }
    return promptsOf(answer);
  }

  /** What threads are at is lost. */
  close(): Promise<void> {
    // Before the pool ends its threads and says so.
    this.#isClosing = true;
    this.#closing ??= this.#pool.destroy();
    return this.#closing;
  }

  async #loadOne(): Promise<void> {
    for (;;) {
      if (this.#isClosing) throw ended("tokenizer threads end before they have loaded");
      let answer: TokenizerAnswer;
      try {
        answer = await this.#pool.run({ kind: "load" });
      } catch (error) {
        this.#deps.logger.debug({ err: error }, "a tokenizer thread ended while it loaded");
        continue;
      }
      promptsOf(answer);
      this.#endedInARow = 0;
      return;
    }
  }

  #ended(): void {
    if (this.#isClosing) return;
    this.#deps.onThreadEnded();
    this.#endedInARow += 1;
    if (this.#endedInARow > this.#threads + maxEndedInARow) {
      const error = ended(`tokenizer threads end before they have loaded, ${this.#endedInARow} in a row`);
      void this.close();
      this.#deps.onGivenUp(error);
      return;
    }
    // A task starts a thread where one is missing. What cannot be loaded is told to those who ask.
    queueMicrotask(() => void this.#loadOne().catch(() => {}));
  }
}

function promptsOf(answer: TokenizerAnswer): Prompts {
  if ("prompts" in answer) return answer;
  throw new KvatlasError(answer.failure.code ?? "KVATLAS_TOKENIZER_UNAVAILABLE", answer.failure.message);
}

function ended(message: string, cause?: unknown): KvatlasError {
  return new KvatlasError("KVATLAS_TOKENIZER_UNAVAILABLE", message, cause === undefined ? undefined : { cause });
}
