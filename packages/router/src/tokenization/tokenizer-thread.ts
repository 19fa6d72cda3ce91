import { type ErrorCode, isKvatlasError } from "@kvatlas/shared/errors";
import { loadPromptEncoderCore, type PromptEncoderCore } from "@kvatlas/shared/tokenization/local-prompt-encoder";
import type { EncodedPrompt, LocalEncoderOptions, PromptRequest } from "@kvatlas/shared/tokenization/prompt-encoder";
import { move, transferableSymbol, valueSymbol, workerData } from "piscina";

/** What a thread is started with. */
export interface TokenizerThreadData {
  /** Module with `run`, imported by the thread's entry file. */
  readonly entry: string;
  readonly options: Omit<LocalEncoderOptions, "now">;
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

let loading: Promise<PromptEncoderCore> | null = null;
let loadFailed = false;
let failedAt = 0;

async function loadCore(): Promise<PromptEncoderCore> {
  const { options } = workerData as unknown as TokenizerThreadData;
  const core = await loadPromptEncoderCore(options);
  for (let i = 0; i < WARM_UP_ROUNDS; i++) core.tokenizer.encode(WARM_UP_TEXT + String(i), { addSpecialTokens: false });
  return core;
}

function loadedCore(): Promise<PromptEncoderCore> {
  if (loading === null || (loadFailed && performance.now() - failedAt > RELOAD_AFTER_MS)) {
    loadFailed = false;
    loading = loadCore();
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
    const core = await loadedCore();
    if (task.kind === "load") return { prompts: [] } satisfies TokenizerAnswer;
    const prompts = core.encode(task);
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
