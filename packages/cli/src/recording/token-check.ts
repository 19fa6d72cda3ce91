import { KvatlasError } from "@kvatlas/shared/errors";
import type { PromptEncoder } from "@kvatlas/shared/tokenization/prompt-encoder";
import type { Exchange } from "./engine-run.ts";
import type { ReportBuilder } from "./report.ts";
import type { ResponseFacts } from "./response-facts.ts";

/** Paths whose prompts are encoded here, and as what. */
const kinds: Readonly<Record<string, "chat" | "completion">> = { "/v1/chat/completions": "chat", "/v1/completions": "completion" };

/**
 * Tokenizes a recorded request from its raw body, compares with the ids that the engine returned, and gives the ids back, one list per prompt;
 * null when it cannot be done.
 */
export async function checkTokens(
  encoder: PromptEncoder,
  { request, response }: Exchange,
  facts: ResponseFacts | null,
  report: ReportBuilder,
): Promise<readonly Uint32Array[] | null> {
  const kind = kinds[request.path];
  if (kind === undefined) {
    report.skip(`tokens: ${request.path} is not encoded here`);
    return null;
  }
  if (response === null || facts === null || response.status < 200 || response.status > 299) {
    report.skip(response === null ? "tokens: no response" : "tokens: failed response");
    return null;
  }
  let encoded: readonly Uint32Array[];
  try {
    encoded = (await encoder.encode({ kind, bodyText: request.bodyText })).map(({ tokenIds }) => tokenIds);
  } catch (error) {
    if (!(error instanceof KvatlasError)) throw error;
    // The engine has answered, so a refusal here is a difference; what this tokenizer cannot do at all is none.
    if (error.code === "KVATLAS_PROMPT_INVALID")
      report.compare("tokens", false, request.line, () => `request ${request.id}: refused here: ${error.message}`);
    else report.skip(`tokens: ${error.code}`);
    return null;
  }
  if (facts.promptTokenIds === null) {
    report.skip("tokens: the answer names no prompt token ids");
    const total = encoded.reduce((sum, ids) => sum + ids.length, 0);
    if (facts.promptTokens === null || facts.promptTokens === total) return encoded;
    report.problem(
      "tokens",
      request.line,
      `request ${request.id}: the engine counts ${facts.promptTokens} prompt tokens, here are ${total}`,
    );
    return null;
  }
  for (const [index, expected] of facts.promptTokenIds.entries()) {
    const got = encoded[index] ?? [];
    const at = firstDifference(expected, got);
    report.compare("tokens", at === null, request.line, () => {
      const place = `prompt ${index + 1}: the engine has ${expected.length} tokens, here are ${got.length}`;
      return `request ${request.id}, ${place}; first difference at token ${at}: ${expected[at ?? 0] ?? "end"} there, ${got[at ?? 0] ?? "end"} here`;
    });
  }
  return encoded;
}

function firstDifference(a: ArrayLike<number>, b: ArrayLike<number>): number | null {
  const length = Math.max(a.length, b.length);
  for (let i = 0; i < length; i++) if (a[i] !== b[i]) return i;
  return null;
}
