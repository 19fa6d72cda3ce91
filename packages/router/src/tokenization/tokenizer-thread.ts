import { type ErrorCode, isKvatlasError } from "@kvatlas/shared/errors";
import { type EngineEncoder, type EngineEncoderOptions, loadEngineEncoder } from "@kvatlas/shared/tokenization/local-prompt-encoder";
import type { EncodedPrompt, PromptRequest } from "@kvatlas/shared/tokenization/prompt-encoder";
import { move, transferableSymbol, valueSymbol, workerData } from "piscina";

/** What a thread is started with. */
export interface TokenizerThreadData {
  /** Module with `run`, imported by the thread's entry file. */
  readonly entry: string;
  readonly options: Omit<EngineEncoderOptions, "now">;
}

/** One request, or a call that only waits until the thread is loaded. */
export type TokenizerTask = PromptRequest | { readonly kind: "load" };

/** Errors cross threads as data: their class and code would be lost. */
export type TokenizerAnswer =
  | { readonly prompts: readonly EncodedPrompt[] }
  | { readonly failure: { readonly code: ErrorCode | null; readonly message: string } };

/** A few kilobytes of mixed text: the code that encodes is compiled before the first request comes. */
const WARM_UP_TEXT = "The cache holds 1,024 blocks; größer? 更大的呢？ if (x != 1e5) { return [\"a\", 'b']; }\n\n".repeat(40);
const WARM_UP_ROUNDS = 3;
/** After a failed load the directory is read again at most this often. */
const RELOAD_AFTER_MS = 5000;

let loading: Promise<EngineEncoder> | null = null;
let loadFailed = false;
let failedAt = 0;

async function loadEncoder(): Promise<EngineEncoder> {
  const { options } = workerData as unknown as TokenizerThreadData;
  const encoder = await loadEngineEncoder(options);
  for (let i = 0; i < WARM_UP_ROUNDS; i++) {
    const text = WARM_UP_TEXT + String(i);
    await encoder.encode({ kind: "completion", bodyText: JSON.stringify({ prompt: text }) });
    // Models without a template refuse, which warms nothing and hurts nobody.
    await encoder
      .encode({ kind: "chat", bodyText: JSON.stringify({ messages: [{ role: "user", content: text }] }) })
      .catch(() => undefined);
  }
  return encoder;
}

function loadedEncoder(): Promise<EngineEncoder> {
  if (loading === null || (loadFailed && performance.now() - failedAt > RELOAD_AFTER_MS)) {
    loadFailed = false;
    loading = loadEncoder();
    loading.catch(() => {
      loadFailed = true;
      failedAt = performance.now();
    });
  }
  return loading;
}

/** Runs in the thread. */
export async function run(task: TokenizerTask): Promise<unknown> {
  try {
    const encoder = await loadedEncoder();
    if (task.kind === "load") return { prompts: [] } satisfies TokenizerAnswer;
    const prompts = await encoder.encode(task);
    const answer: TokenizerAnswer = { prompts };
    return move({
      get [transferableSymbol]() {
        return prompts.map((prompt) => prompt.tokenIds.buffer);
      },
      get [valueSymbol]() {
        return answer;
      },
    });
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error);
    return { failure: { code: isKvatlasError(error) ? error.code : null, message } } satisfies TokenizerAnswer;
  }
}
