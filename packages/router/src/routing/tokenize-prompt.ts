import { isKvatlasError } from "@kvatlas/shared/errors";
import type { PromptEncoder, PromptRequest } from "@kvatlas/shared/tokenization/prompt-encoder";
import { within } from "../deadline.ts";
import { hasMedia, type ParsedRequest, type PromptTokens } from "../request/parse-request.ts";
import type { DecisionReason } from "./decision.ts";

/** Token ids of every prompt of a request, or why they are not known. `error` is for the log and holds no text of the prompt's. */
export type TokenizedPrompt =
  | { readonly prompts: readonly PromptTokens[]; readonly tokenized: boolean }
  | { readonly reason: DecisionReason; readonly error?: unknown };

export interface TokenizeTimes {
  readonly tokenizeTimeoutMs: number;
  readonly tokenizeTimeoutMsPerKiB: number;
  /** 0: prompts with media are not asked for at all. */
  readonly mediaTimeoutMs: number;
}

/**
 * Milliseconds that tokenization may take: a fixed part and one that grows with the body. Cold, a thread does some 100 KiB in 50 ms; the same prompt
 * costs seconds of prefill on a replica that does not hold it. Where there are images, a replica has to fetch and look at them first.
 */
export function tokenizeDeadlineMs(request: Pick<ParsedRequest, "bodyText" | "prompt">, times: TokenizeTimes): number {
  const ofText = times.tokenizeTimeoutMs + (request.bodyText.length / 1_024) * times.tokenizeTimeoutMsPerKiB;
  return hasMedia(request.prompt) ? Math.max(ofText, times.mediaTimeoutMs) : ofText;
}

/** Never rejects: whatever goes wrong is a reason to route by load. */
export async function tokenizePrompt(
  request: ParsedRequest,
  encoder: PromptEncoder | null,
  times: TokenizeTimes,
): Promise<TokenizedPrompt> {
  const source = request.prompt;
  if (source.form === "ids") return { prompts: source.prompts, tokenized: false };
  if (source.form === "none") return { reason: source.why };
  const needsEngine = hasMedia(source);
  if (needsEngine && times.mediaTimeoutMs === 0) return { reason: "media" };
  if (encoder === null) return { reason: "no-tokenizer" };
  const converted = source.form === "other-api" ? source.chatBody() : null;
  if (source.form === "other-api" && converted === null) return { reason: "not-a-plain-chat" };
  const wanted: PromptRequest =
    source.form === "text"
      ? { kind: source.kind, bodyText: request.bodyText, ...(needsEngine ? { hasMedia: true } : {}) }
      : { kind: "chat", bodyText: converted ?? "" };
  try {
    const encoded = await within(tokenizeDeadlineMs(request, times), "tokenization", async (signal) =>
      encoder.encode(wanted, { signal: signal() }),
    );
    return { prompts: encoded, tokenized: true };
  } catch (error) {
    const reason = reasonOf(error);
    return { reason: needsEngine && reason === "no-tokenizer" ? "media" : reason, error };
  }
}

function reasonOf(error: unknown): DecisionReason {
  if (isKvatlasError(error, "KVATLAS_DEADLINE_EXCEEDED")) return "tokenize-timeout";
  if (isKvatlasError(error, "KVATLAS_TOKENIZER_BUSY")) return "tokenizer-busy";
  if (isKvatlasError(error, "KVATLAS_PROMPT_INVALID")) return "prompt-invalid";
  if (isKvatlasError(error, "KVATLAS_TOKENIZER_UNAVAILABLE")) return "no-tokenizer";
  return "tokenizer-failed";
}
