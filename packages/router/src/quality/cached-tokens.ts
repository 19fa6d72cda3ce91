/** What the end of an answer is searched of, from either of its last two pieces. */
const tailBytes = 4_096;

/**
 * Prompt tokens that the engine says it found in its cache: `usage.prompt_tokens_details.cached_tokens` (vLLM with `--enable-prompt-tokens-details`), which
 * is at the end of an answer, streamed (`stream_options.include_usage`) or not. Searched, not parsed: the rest of the answer is nobody's business here.
 *
 * @param lastPieces - the last two pieces of the body, as they came
 * @returns null when the engine does not say
 */
export function cachedTokensIn(lastPieces: readonly Buffer[]): number | null {
  const tail = lastPieces.map((piece) => piece.toString("latin1", Math.max(0, piece.length - tailBytes))).join("");
  const at = tail.lastIndexOf('"cached_tokens"');
  if (at === -1) return null;
  const number = /^"cached_tokens"\s*:\s*(\d{1,9})\b/.exec(tail.slice(at, at + 64))?.[1];
  return number === undefined ? null : Number(number);
}
