import { hasMedia, parseRequest } from "@kvatlas/router/request/parse-request";
import { KvatlasError } from "@kvatlas/shared/errors";
import type { RecordedTokenizer } from "./recorded-tokenizer.ts";
import type { ReportBuilder } from "./report.ts";

/** A prompt as a client wrote it, and what the engine made of it. */
export interface TokenQuestion {
  /** For messages, e.g. `request r7`. */
  readonly name: string;
  readonly line: number;
  readonly path: string;
  readonly bodyText: string;
  /** When the engine got it; null when its clock is not known. */
  readonly at: Date | null;
  /** The engine's ids, one list per prompt; null when it did not tell. */
  readonly tokenIds: readonly (readonly number[])[] | null;
  /** Of all prompts together; null when not known. */
  readonly totalTokens: number | null;
}

/** Paths whose prompts are encoded here, and as what. */
const kinds: Readonly<Record<string, "chat" | "completion">> = {
  "/v1/chat/completions": "chat",
  "/v1/completions": "completion",
};

/** Fields of a chat or completion that `/tokenize` passes over (vLLM 0.10 to 0.33). */
const ignoredByTokenize = /"(?:reasoning_content|reasoning_effort|documents|tool_choice|truncate_prompt_tokens)"\s*:/;

function kindOf({ path, bodyText }: TokenQuestion): "chat" | "completion" | undefined {
  if (path === "/tokenize") return /"messages"\s*:/.test(bodyText) ? "chat" : "completion";
  return kinds[path.replace(/\/render$/, "")];
}

/**
 * Tokenizes a request from its raw body, compares with the ids that the engine told, and gives the ids back, one list per prompt; null when it
 * cannot be done.
 */
export function checkTokens(tokenizer: RecordedTokenizer, question: TokenQuestion, report: ReportBuilder): readonly Uint32Array[] | null {
  const kind = kindOf(question);
  if (kind === undefined) {
    report.skip(`tokens: ${question.path} is not encoded here`);
    return null;
  }
  const { name, line, path, bodyText, at, tokenIds, totalTokens } = question;
  const { prompt } = parseRequest(path, Buffer.from(bodyText, "utf8"));
  const isMedia = hasMedia(prompt) || (prompt.form === "none" && (prompt.why === "media" || prompt.why === "prompt-embeds"));
  if (isMedia || (kind === "chat" && prompt.form === "ids")) {
    report.skip(isMedia ? "tokens: media in the request" : "tokens: a chat that carries its token ids");
    return null;
  }
  if (path === "/tokenize" && ignoredByTokenize.test(bodyText)) {
    report.skip("tokens: /tokenize with fields that it ignores");
    return null;
  }
  let encoded: readonly Uint32Array[];
  try {
    encoded = tokenizer.encode(kind, bodyText, at);
  } catch (error) {
    if (!(error instanceof KvatlasError)) throw error;
    // The engine has answered, so a refusal here is a difference; what this tokenizer cannot do at all is none.
    if (error.code === "KVATLAS_PROMPT_INVALID") report.compare("tokens", false, line, () => `${name}: refused here: ${error.message}`);
    else report.skip(`tokens: ${error.code}`);
    return null;
  }
  if (tokenIds === null) {
    report.skip("tokens: the answer names no prompt token ids");
    const total = encoded.reduce((sum, ids) => sum + ids.length, 0);
    if (totalTokens === null || totalTokens === total) return encoded;
    report.problem("tokens", line, `${name}: the engine counts ${totalTokens} prompt tokens, here are ${total}`);
    return null;
  }
  for (const [index, expected] of tokenIds.entries()) {
    const got = encoded[index] ?? [];
    const difference = firstDifference(expected, got);
    report.compare("tokens", difference === null, line, () => {
      const place = `prompt ${index + 1}: the engine has ${expected.length} tokens, here are ${got.length}`;
      return `${name}, ${place}; first difference at token ${difference}: ${expected[difference ?? 0] ?? "end"} there, ${got[difference ?? 0] ?? "end"} here`;
    });
  }
  return encoded;
}

function firstDifference(a: ArrayLike<number>, b: ArrayLike<number>): number | null {
  const length = Math.max(a.length, b.length);
  for (let i = 0; i < length; i++) if (a[i] !== b[i]) return i;
  return null;
}
