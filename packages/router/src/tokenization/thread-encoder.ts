import { availableParallelism } from "node:os";
import { KvatlasError } from "@kvatlas/shared/errors";
import type { Logger } from "@kvatlas/shared/logger";
import type { EngineEncoderOptions } from "@kvatlas/shared/tokenization/local-prompt-encoder";
import { nativeEngineMissing } from "@kvatlas/shared/tokenization/native-engine";
import type { PromptEncoder } from "@kvatlas/shared/tokenization/prompt-encoder";
import { ambiguityOf } from "@kvatlas/shared/tokenization/tokenizer-files";
import { AdmissionQueue } from "./admission-queue.ts";
import { TokenizerThreads } from "./tokenizer-threads.ts";

export interface ThreadEncoderOptions extends Omit<EngineEncoderOptions, "now" | "directory"> {
  /** Directory of the files, or what gets them. */
  readonly directory: string | (() => Promise<string>);
  /** Worker threads. @defaultValue 1 for the native engine, which brings its own; else cores - 1, at least 1, at most 4 */
  readonly threads?: number;
  /** Requests that may wait for a thread. @defaultValue 256 */
  readonly maxQueue?: number;
  /** After files could not be had, or threads did not stay, they are tried again at most this often. @defaultValue 30000 */
  readonly restartAfterMs?: number;
}

export interface ThreadEncoderDeps {
  readonly logger: Logger;
  /** A request failed because the thread that encoded it ended. */
  readonly onThreadFailure?: () => void;
  /** A thread ended by itself, at a request or not; another one takes its place. */
  readonly onThreadEnded?: () => void;
}

export interface ThreadPromptEncoder extends PromptEncoder {
  /** Resolves when every thread has read the checkpoint; rejects with KVATLAS_TOKENIZER_UNAVAILABLE when it cannot. */
  readonly ready: Promise<void>;
}

/** Prompts a thread works on at once: JavaScript holds its thread, the native engine works beside it. */
const NATIVE_TASKS_PER_THREAD = 8;

/**
 * Encodes in worker threads, off the event loop. Loading begins at once and every thread warms up before its first request; requests
 * that come earlier wait. A thread that dies is replaced, and only the requests it was at fail.
 */
export function createThreadPromptEncoder(options: ThreadEncoderOptions, deps: ThreadEncoderDeps): ThreadPromptEncoder {
  const { threads: wishedThreads, maxQueue = 256, restartAfterMs = 30_000, directory, ...encoderOptions } = options;
  const { logger } = deps;
  let closing: Promise<void> | null = null;
  let failedAt: number | null = null;
  let running: Promise<Running> = start();

  const ready = running.then(() => undefined);
  ready.catch(() => undefined);
  return {
    ready,
    encode: async (request, callOptions) => {
      if (request.engineOnly === true) {
        throw new KvatlasError("KVATLAS_TOKENIZER_UNAVAILABLE", "this prompt is encoded by engines only");
      }
      if (failedAt !== null && closing === null && performance.now() - failedAt > restartAfterMs) {
        failedAt = null;
        running = start();
      }
      const { queue, threads } = await aborting(running, callOptions?.signal);
      return (await queue.run(() => threads.run(request), callOptions?.signal)).prompts;
    },
    close: () => {
      closing ??= running.then(
        ({ queue, threads }) => queue.close().then(() => threads.close()),
        () => undefined,
      );
      return closing;
    },
  };

  function start(): Promise<Running> {
    const started = load();
    started.catch(failed);
    return started;
  }

  function failed(error: unknown): void {
    failedAt = performance.now();
    logger.error({ err: error, directory: typeof directory === "string" ? directory : undefined }, "tokenizer cannot be loaded");
  }

  async function load(): Promise<Running> {
    const startedAt = performance.now();
    const nativeMissing = options.engine === "javascript" ? null : await nativeEngineMissing();
    const isNative = options.engine !== "javascript" && nativeMissing === null;
    if (nativeMissing !== null && options.engine !== "native") {
      logger.info({ reason: nativeMissing }, "the native tokenizer engine does not load here: prompts are encoded in JavaScript");
    }
    const source = typeof directory === "string" ? directory : await directory();
    const count = wishedThreads ?? (isNative ? 1 : Math.min(4, Math.max(1, availableParallelism() - 1)));
    logger.info({ directory: source, threads: count }, "loading the tokenizer");
    const ambiguity = options.modelType === undefined ? await ambiguityOf(source).catch(() => null) : null;
    if (ambiguity !== null) logger.warn({ directory: source }, ambiguity);
    const tasksPerThread = isNative ? NATIVE_TASKS_PER_THREAD : 1;
    let isLoaded = false;
    const threads = new TokenizerThreads(
      {
        logger,
        onThreadEnded: () => {
          logger.warn({ directory: source }, "a tokenizer thread ended; another one is started");
          deps.onThreadEnded?.();
        },
        onRequestLost: () => deps.onThreadFailure?.(),
        // While they load, loading fails.
        onGivenUp: (error) => {
          if (isLoaded) failed(error);
        },
      },
      { threads: count, tasksPerThread, encoder: { ...encoderOptions, directory: source } },
    );
    const queue = new AdmissionQueue({ concurrency: count * tasksPerThread, maxQueue });
    try {
      await threads.load();
    } catch (error) {
      await threads.close();
      throw error;
    }
    isLoaded = true;
    const engine = isNative ? "native" : "javascript";
    logger.info({ directory: source, threads: count, engine, ms: Math.round(performance.now() - startedAt) }, "tokenizer loaded");
    return { queue, threads };
  }
}

interface Running {
  readonly queue: AdmissionQueue;
  readonly threads: TokenizerThreads;
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
