import { isKvatlasError } from "@kvatlas/shared/errors";
import type { PromptEncoder, PromptRequest } from "@kvatlas/shared/tokenization/prompt-encoder";
import { within } from "../deadline.ts";
import type { ParsedRequest, PromptSource, PromptTokens } from "../request/parse-request.ts";
import type { DecisionReason } from "./decision.ts";

/** Token ids of every prompt of a request, or why they are not known. `error` is for the log and holds no text of the prompt's. */
export type TokenizedPrompt =
  | { readonly prompts: readonly PromptTokens[]; readonly tokenized: boolean }
  | { readonly reason: DecisionReason; readonly error?: unknown };

export interface TokenizeTimes {
  readonly tokenizeTimeoutMs: number;
  readonly tokenizeTimeoutMsPerKiB: number;
  /** For prompts of which only engines can tell the tokens; 0: they are not asked. */
  readonly renderTimeoutMs: number;
}

/**
 * Milliseconds that tokenization may take: a fixed part and one that grows with the body. Cold, a thread does some 100 KiB in 50 ms; the same prompt
 * costs seconds of prefill on a replica that does not hold it. A replica that is asked may have images to fetch and to look at first.
 */
export function tokenizeDeadlineMs({ bodyText }: Pick<ParsedRequest, "bodyText">, times: TokenizeTimes, isRendered: boolean): number {
  const ofText = times.tokenizeTimeoutMs + (bodyText.length / 1_024) * times.tokenizeTimeoutMsPerKiB;
  return isRendered ? Math.max(ofText, times.renderTimeoutMs) : ofText;
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
  if (encoder === null) return { reason: "no-tokenizer" };
  const wanted = promptRequestOf(source, request.bodyText);
  const isRendered = wanted.engineOnly === true;
  const whyNot = source.form === "text" ? "media" : "not-a-plain-chat";
  if (isRendered && times.renderTimeoutMs === 0) return { reason: whyNot };
  try {
    const encoded = await within(tokenizeDeadlineMs(request, times, isRendered), "tokenization", async (signal) =>
      encoder.encode(wanted, { signal: signal() }),
    );
    return { prompts: encoded, tokenized: true };
  } catch (error) {
    const reason = reasonOf(error);
    return { reason: isRendered && reason === "no-tokenizer" ? whyNot : reason, error };
  }
}

function promptRequestOf(source: Extract<PromptSource, { readonly form: "text" | "other-api" }>, bodyText: string): PromptRequest {
  if (source.form === "text") return { kind: source.kind, bodyText, ...(source.hasMedia === true ? { engineOnly: true } : {}) };
  const chat = source.chatBody();
  return chat === null ? { kind: source.kind, bodyText, engineOnly: true } : { kind: "chat", bodyText: chat };
}

function reasonOf(error: unknown): DecisionReason {
  if (isKvatlasError(error, "KVATLAS_DEADLINE_EXCEEDED")) return "tokenize-timeout";
  if (isKvatlasError(error, "KVATLAS_TOKENIZER_BUSY")) return "tokenizer-busy";
  if (isKvatlasError(error, "KVATLAS_PROMPT_INVALID")) return "prompt-invalid";
  if (isKvatlasError(error, "KVATLAS_TOKENIZER_UNAVAILABLE")) return "no-tokenizer";
  return "tokenizer-failed";
}
