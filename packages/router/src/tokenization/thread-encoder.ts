import { availableParallelism } from "node:os";
import { KvatlasError } from "@kvatlas/shared/errors";
import type { Logger } from "@kvatlas/shared/logger";
import type { LocalEncoderOptions, PromptEncoder } from "@kvatlas/shared/tokenization/prompt-encoder";
import { Piscina } from "piscina";
import { AdmissionQueue } from "./admission-queue.ts";
import type { TokenizerAnswer, TokenizerTask, TokenizerThreadData } from "./tokenizer-thread.ts";

export interface ThreadEncoderOptions extends Omit<LocalEncoderOptions, "now"> {
  /** Worker threads. @defaultValue cores - 1, at least 1, at most 4 */
  readonly threads?: number;
  /** Requests that may wait for a thread. @defaultValue 256 */
  readonly maxQueue?: number;
}

export interface ThreadPromptEncoder extends PromptEncoder {
  /** Resolves when every thread has read the checkpoint; rejects with KVATLAS_TOKENIZER_UNAVAILABLE when it cannot. */
  readonly ready: Promise<void>;
}

/**
 * Encodes in worker threads, off the event loop. Loading begins at once and every thread warms up before its first request; requests
 * that come earlier wait. A thread that dies is replaced, and only the request it was at fails.
 */
export function createThreadPromptEncoder(options: ThreadEncoderOptions, deps: { readonly logger: Logger }): ThreadPromptEncoder {
  const { threads = Math.min(4, Math.max(1, availableParallelism() - 1)), maxQueue = 256, ...encoderOptions } = options;
  const fromSource = import.meta.url.endsWith(".ts");
  const data: TokenizerThreadData = {
    entry: new URL(fromSource ? "./tokenizer-thread.ts" : "./tokenizer-thread.js", import.meta.url).href,
    options: encoderOptions,
  };
  const pool = new Piscina<TokenizerTask, TokenizerAnswer>({
    filename: new URL("../../threads/tokenizer.mjs", import.meta.url).href,
    workerData: data,
    minThreads: threads,
    maxThreads: threads,
    idleTimeout: Number.POSITIVE_INFINITY,
    concurrentTasksPerWorker: 1,
    // Exact, so that neither a test runner's nor a loader's flags of the parent reach the threads.
    execArgv: fromSource ? ["--conditions=@kvatlas/source"] : [],
  });
  pool.on("error", (error: unknown) => deps.logger.error({ err: error }, "tokenizer thread failed"));
  const queue = new AdmissionQueue({ concurrency: threads, maxQueue });

  const call = async (task: TokenizerTask): Promise<Extract<TokenizerAnswer, { prompts: unknown }>> => {
    let answer: TokenizerAnswer;
    try {
      answer = await pool.run(task);
    } catch (error) {
      throw new KvatlasError("KVATLAS_TOKENIZER_UNAVAILABLE", `a tokenizer thread ended while it encoded: ${String(error)}`, {
        cause: error,
      });
    }
    if ("prompts" in answer) return answer;
    throw new KvatlasError(answer.failure.code ?? "KVATLAS_TOKENIZER_UNAVAILABLE", answer.failure.message);
  };

  const startedAt = performance.now();
  const ready = Promise.all(Array.from({ length: threads }, () => queue.run(() => call({ kind: "load" })))).then(() => {
    deps.logger.info({ directory: options.directory, threads, ms: Math.round(performance.now() - startedAt) }, "tokenizer loaded");
  });
  ready.catch((error: unknown) => deps.logger.error({ err: error, directory: options.directory }, "tokenizer cannot be loaded"));

  let closing: Promise<void> | null = null;
  return {
    ready,
    encode: async (request, callOptions) => (await queue.run(() => call(request), callOptions?.signal)).prompts,
    close: () => {
      closing ??= queue.close().then(() => pool.destroy());
      return closing;
    },
  };
}
