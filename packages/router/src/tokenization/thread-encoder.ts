import { availableParallelism } from "node:os";
import { KvatlasError } from "@kvatlas/shared/errors";
import type { Logger } from "@kvatlas/shared/logger";
import type { EngineEncoderOptions } from "@kvatlas/shared/tokenization/local-prompt-encoder";
import { nativeEngineMissing } from "@kvatlas/shared/tokenization/native-engine";
import type { PromptEncoder } from "@kvatlas/shared/tokenization/prompt-encoder";
import { ambiguityOf } from "@kvatlas/shared/tokenization/tokenizer-files";
import { Piscina } from "piscina";
import { AdmissionQueue } from "./admission-queue.ts";
import type { TokenizerAnswer, TokenizerTask, TokenizerThreadData } from "./tokenizer-thread.ts";

export interface ThreadEncoderOptions extends Omit<EngineEncoderOptions, "now" | "directory"> {
  /** Directory of the files, or what gets them. */
  readonly directory: string | (() => Promise<string>);
  /** Worker threads. @defaultValue 1 for the native engine, which brings its own; else cores - 1, at least 1, at most 4 */
  readonly threads?: number;
  /** Requests that may wait for a thread. @defaultValue 256 */
  readonly maxQueue?: number;
}

export interface ThreadEncoderDeps {
  readonly logger: Logger;
  /** A thread ended; another one takes its place. */
  readonly onThreadFailure?: () => void;
}

export interface ThreadPromptEncoder extends PromptEncoder {
  /** Resolves when every thread has read the checkpoint; rejects with KVATLAS_TOKENIZER_UNAVAILABLE when it cannot. */
  readonly ready: Promise<void>;
}

/** Prompts a thread works on at once: JavaScript holds its thread, the native engine works beside it. */
const NATIVE_TASKS_PER_THREAD = 8;
/** After files could not be had, they are asked for again at most this often. */
const RESTART_AFTER_MS = 30_000;

type Pool = Piscina<TokenizerTask, TokenizerAnswer>;

/**
 * Encodes in worker threads, off the event loop. Loading begins at once and every thread warms up before its first request; requests
 * that come earlier wait. A thread that dies is replaced, and only the requests it was at fail.
 */
export function createThreadPromptEncoder(options: ThreadEncoderOptions, deps: ThreadEncoderDeps): ThreadPromptEncoder {
  const { threads: wishedThreads, maxQueue = 256, directory, ...encoderOptions } = options;
  const { logger } = deps;
  let closing: Promise<void> | null = null;
  let running: Promise<Running> = start();
  let failedAt: number | null = null;
  watch(running);

  const ready = running.then(() => undefined);
  ready.catch(() => undefined);
  return {
    ready,
    encode: async (request, callOptions) => {
      if (failedAt !== null && closing === null && performance.now() - failedAt > RESTART_AFTER_MS) {
        failedAt = null;
        running = start();
        watch(running);
      }
      const { queue, call } = await aborting(running, callOptions?.signal);
      return (await queue.run(() => call(request), callOptions?.signal)).prompts;
    },
    close: () => {
      closing ??= running.then(
        ({ queue, pool }) => queue.close().then(() => pool.destroy()),
        () => undefined,
      );
      return closing;
    },
  };

  function watch(started: Promise<Running>): void {
    started.catch((error: unknown) => {
      failedAt = performance.now();
      logger.error({ err: error, directory: typeof directory === "string" ? directory : undefined }, "tokenizer cannot be loaded");
    });
  }

  async function start(): Promise<Running> {
    const startedAt = performance.now();
    const nativeMissing = options.engine === "javascript" ? null : await nativeEngineMissing();
    const isNative = options.engine !== "javascript" && nativeMissing === null;
    if (nativeMissing !== null && options.engine !== "native") {
      logger.info({ reason: nativeMissing }, "the native tokenizer engine does not load here: prompts are encoded in JavaScript");
    }
    const source = typeof directory === "string" ? directory : await directory();
    const threads = wishedThreads ?? (isNative ? 1 : Math.min(4, Math.max(1, availableParallelism() - 1)));
    logger.info({ directory: source, threads }, "loading the tokenizer");
    const ambiguity = options.modelType === undefined ? await ambiguityOf(source).catch(() => null) : null;
    if (ambiguity !== null) logger.warn({ directory: source }, ambiguity);
    const tasksPerThread = isNative ? NATIVE_TASKS_PER_THREAD : 1;
    const pool = createPool({ ...encoderOptions, directory: source }, threads, tasksPerThread);
    pool.on("error", (error: unknown) => logger.error({ err: error }, "tokenizer thread failed"));
    const queue = new AdmissionQueue({ concurrency: threads * tasksPerThread, maxQueue });
    const call = caller(pool, () => deps.onThreadFailure?.());
    try {
      // As many at once as there are threads: each takes one.
      await Promise.all(Array.from({ length: threads }, () => call({ kind: "load" })));
    } catch (error) {
      await pool.destroy();
      throw error;
    }
    const engine = isNative ? "native" : "javascript";
    logger.info({ directory: source, threads, engine, ms: Math.round(performance.now() - startedAt) }, "tokenizer loaded");
    return { pool, queue, call };
  }
}

interface Running {
  readonly pool: Pool;
  readonly queue: AdmissionQueue;
  readonly call: (task: TokenizerTask) => Promise<Extract<TokenizerAnswer, { prompts: unknown }>>;
}

function createPool(options: TokenizerThreadData["options"], threads: number, tasksPerThread: number): Pool {
  const fromSource = import.meta.url.endsWith(".ts");
  const data: TokenizerThreadData = {
    entry: new URL(fromSource ? "./tokenizer-thread.ts" : "./tokenizer-thread.js", import.meta.url).href,
    options,
  };
  return new Piscina<TokenizerTask, TokenizerAnswer>({
    filename: new URL("../../threads/tokenizer.mjs", import.meta.url).href,
    workerData: data,
    minThreads: threads,
    maxThreads: threads,
    idleTimeout: Number.POSITIVE_INFINITY,
    concurrentTasksPerWorker: tasksPerThread,
    // Exact, so that neither a test runner's nor a loader's flags of the parent reach the threads.
    execArgv: fromSource ? ["--conditions=@kvatlas/source"] : [],
  });
}

function caller(pool: Pool, onThreadFailure: () => void): Running["call"] {
  return async (task) => {
    let answer: TokenizerAnswer;
    try {
      answer = await pool.run(task);
    } catch (error) {
      onThreadFailure();
      throw new KvatlasError("KVATLAS_TOKENIZER_UNAVAILABLE", `a tokenizer thread ended while it encoded: ${String(error)}`, {
        cause: error,
      });
    }
    if ("prompts" in answer) return answer;
    throw new KvatlasError(answer.failure.code ?? "KVATLAS_TOKENIZER_UNAVAILABLE", answer.failure.message);
  };
}

/** Lets a caller go while the threads still load. */
async function aborting<T>(promise: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (signal === undefined) return promise;
  const cancelled = (): KvatlasError =>
    new KvatlasError("KVATLAS_DEADLINE_EXCEEDED", "tokenization was cancelled while the tokenizer is being loaded");
  if (signal.aborted) throw cancelled();
  return new Promise<T>((resolve, reject) => {
    const abort = (): void => reject(cancelled());
    signal.addEventListener("abort", abort, { once: true });
    promise.then(resolve, reject).finally(() => signal.removeEventListener("abort", abort));
  });
}
